"""BDD100K's instance masks: COCO's AP, and that of masks that share no pixel."""
