"""Labels as labelling tools write them, read as content in COCO's form: one small reader per tool."""
