"""`python -m streamer.cli` is the command `splatstream`."""

from streamer.cli import main

if __name__ == "__main__":
    main()
