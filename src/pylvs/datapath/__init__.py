"""All that touches the kernel: loading, pinning, attaching, and the maps as Python sees them."""
