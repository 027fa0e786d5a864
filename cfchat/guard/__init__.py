"""Which clients may ask, and how much. Pure: clocks are handed in."""
