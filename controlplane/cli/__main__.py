"""`python -m controlplane.cli` is `dsctl`."""

from controlplane.cli import main

if __name__ == "__main__":
    main.run()
