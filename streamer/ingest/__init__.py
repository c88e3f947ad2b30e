"""The ingest process: accepts frames and corrections, checks, decodes and batches them."""
