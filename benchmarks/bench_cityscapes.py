"""Time of Cityscapes' instance evaluation by mask and by boundary, on a generated gtFine folder.

    OMP_NUM_THREADS=1 python benchmarks/bench_cityscapes.py [--images 6] [--objects 25] [--detections 50]

Times are those of whole evaluations, PNG files and JSON included, the best of some; COCO's AP on the same
masks is part of them.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from crispmask.evaluation import evaluate
from crispmask.testing import write_cityscapes


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--objects", type=int, default=25)
    parser.add_argument("--detections", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = {"images": args.images, "objects": args.objects, "detections": args.detections}
        rows = write_cityscapes(Path(folder), height=1024, width=2048, **counts)
        results = Path(folder, "results.json")
        results.write_text(json.dumps(rows))
        print(f"{platform.machine()}, NumPy {np.__version__}; {counts}, 2048 x 1024")
        for iou_type in ("mask", "boundary"):
            times = []
            for _ in range(args.repeats):
                start = time.perf_counter()
                figures = evaluate(Path(folder, "gtFine"), results, "cityscapes", iou_type)
                times.append(time.perf_counter() - start)
            print(f"{iou_type:10} {min(times):6.2f} s   AP {figures['AP']:.4f}")


if __name__ == "__main__":
    main()
