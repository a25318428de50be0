"""Videos in and out, and who is who in them: frames with their times, tracks, smoothing, drawn videos."""
