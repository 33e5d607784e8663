"""`python -m gansmith`: what torchrun starts."""

from gansmith.cli import main

if __name__ == "__main__":
    main()
