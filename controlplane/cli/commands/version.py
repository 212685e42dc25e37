"""`dsctl version`."""

from controlplane.cli import output


def version() -> None:
    """Print the installed version."""
    from controlplane import version as product

    output.tell(f"dsctl {product.current()}")
