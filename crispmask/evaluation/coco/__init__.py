"""COCO's AP of boxes, masks and boundaries."""
