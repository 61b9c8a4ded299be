"""Protocol states, transitions and timeouts, as data (facts section 3). The packet path gets them at load."""
