"""What the verbs of ``crispmask analyze`` compute: numbers and pages from results, without Detectron2."""
