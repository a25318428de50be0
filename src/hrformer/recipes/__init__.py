"""Every training run by name: functions that return one frozen configuration; ``catalogue`` lists them."""
