"""The publisher: mirrors what sessions publish, fans it out, answers requests."""
