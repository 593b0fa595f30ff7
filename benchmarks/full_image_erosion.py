"""Time of the boundary of a mask on its whole image, as the official Boundary IoU tool computes it.

    OMP_NUM_THREADS=1 python benchmarks/full_image_erosion.py [--seconds 1]

Prints the median microseconds of one mask. It runs in a process of its own, with nothing but OpenCV, NumPy
and pycocotools, as the tool does: each mask is decoded, its boundary taken, which alone is timed, and
encoded, so every step gets new memory from the system. Where torch is loaded and much memory has been in use,
the C library keeps it, and the same lines take a third of the time.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
import pycocotools.mask as mask_utils

IMAGE = (480, 640)
WIDTH = 16  # 2% of the diagonal, rounded


def full_image_boundary(mask: np.ndarray) -> np.ndarray:
    """Pad by one pixel, erode by 3 x 3 as many times as the boundary is wide, cut off, subtract.

    OpenCV makes one pass by a 33 x 33 square of the 16 iterations.
    """
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=WIDTH)[1:-1, 1:-1]


def disc(side: int) -> np.ndarray:
    """A filled ellipse that touches all four sides, 0 and 1."""
    return cv2.ellipse(np.zeros((side, side), np.uint8), ((side / 2, side / 2), (side, side), 0), 1, -1)


def image_with(side: int) -> np.ndarray:
    """A mask of the whole image with one object, 0 and 1."""
    image = np.zeros(IMAGE, np.uint8)
    image[100 : 100 + side, 100 : 100 + side] = disc(side)
    return image


def main() -> None:
    """Print the median, in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat")
    end = time.perf_counter() + parser.parse_args().seconds
    cv2.setNumThreads(1)
    encoded = [mask_utils.encode(np.asfortranarray(image_with(side))) for side in (20, 60, 170)]
    times: list[float] = []
    while len(times) < 30 or time.perf_counter() < end:
        mask = mask_utils.decode(encoded[len(times) % len(encoded)])
        start = time.process_time()
        boundary = full_image_boundary(mask)
        times.append(time.process_time() - start)
        mask_utils.encode(np.asfortranarray(boundary))
    print(1e6 * statistics.median(times))


if __name__ == "__main__":
    main()
