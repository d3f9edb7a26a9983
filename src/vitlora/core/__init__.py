"""What everything stands on: errors, text, files, durable writes, parameters, how a stage begins."""
