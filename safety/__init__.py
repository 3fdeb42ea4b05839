"""Safety: limits, profiles and the filter that every command passes, whoever sent it."""
