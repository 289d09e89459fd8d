"""JPEG files to augmented model inputs, on one core, as the original loads them: Pillow decodes and
resizes, OpenCV and NumPy augment, torchvision makes the tensor.

Peer: `pillow`.
"""

import io
import random

import cv2
import numpy as np
from PIL import Image
from torchvision import transforms

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FILL = (128, 128, 128)


class Photos:
    def __init__(self, workload, folder, peer):
        assert peer == "pillow"
        cv2.setNumThreads(1)
        random.seed(0)
        np.random.seed(0)
        size = workload["size"]
        bicubic = transforms.InterpolationMode.BICUBIC
        final = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.train = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                RandAugment(),
                *final,
            ]
        )
        self.evaluate = transforms.Compose([transforms.Resize((size, size), interpolation=bicubic), *final])
        self.files = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]

    def run(self):
        for file in self.files:
            self.input = self.train(Image.open(io.BytesIO(file)).convert("RGB"))

    def outputs(self):
        image = Image.open(io.BytesIO(self.files[0])).convert("RGB")
        return {"input": self.evaluate(image).numpy()}


def either_way(value):
    return -value if random.random() > 0.5 else value


def look_up(image, tables):
    return np.stack([tables[c][image[..., c]] for c in range(3)], axis=-1)


def auto_contrast(image):
    tables = []
    for c in range(3):
        low, high = int(image[..., c].min()), int(image[..., c].max())
        values = np.arange(256)
        if high > low:
            values = np.clip((values - low) * (255.0 / (high - low)), 0, 255)
        tables.append(values.astype(np.uint8))
    return look_up(image, tables)


def equalize(image):
    tables = []
    for c in range(3):
        counts = cv2.calcHist([image], [c], None, [256], [0, 256]).ravel()
        step = int((counts.sum() - counts[counts.nonzero()[0][-1]]) // 255)
        if step == 0:
            tables.append(np.arange(256, dtype=np.uint8))
            continue
        below = step // 2 + np.concatenate([[0], np.cumsum(counts)[:-1]])
        tables.append(np.clip(below // step, 0, 255).astype(np.uint8))
    return look_up(image, tables)


def brightness(image, factor):
    table = np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8)
    return table[image]


SMOOTHING = np.ones((3, 3), dtype=np.float32) / 13
SMOOTHING[1, 1] = 5 / 13


def sharpness(image, factor):
    smooth = cv2.filter2D(image, -1, SMOOTHING)
    if factor == 0.0:
        return smooth
    inside = (slice(1, -1), slice(1, -1))
    blended = image[inside].astype(np.float32) * factor + smooth[inside].astype(np.float32) * (1 - factor)
    out = image.copy()
    out[inside] = np.clip(blended, 0, 255).astype(np.uint8)
    return out


def warp(image, matrix):
    height, width = image.shape[:2]
    matrix = np.float32(matrix)
    return cv2.warpAffine(image, matrix, (width, height), borderValue=FILL, flags=cv2.INTER_LINEAR)


def rotate(image, degrees):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderValue=FILL)


class RandAugment:
    """Two of ten operations at strength 7 of 10, each applied with probability one half."""

    OPERATIONS = {
        "identity": lambda image: image,
        "auto_contrast": auto_contrast,
        "equalize": equalize,
        "brightness": lambda image: brightness(image, 1.36),
        "sharpness": lambda image: sharpness(image, 1.36),
        "shear_x": lambda image: warp(image, [[1, either_way(0.21), 0], [0, 1, 0]]),
        "shear_y": lambda image: warp(image, [[1, 0, 0], [either_way(0.21), 1, 0]]),
        "translate_x": lambda image: warp(image, [[1, 0, -either_way(7)], [0, 1, 0]]),
        "translate_y": lambda image: warp(image, [[1, 0, 0], [0, 1, -either_way(7)]]),
        "rotate": lambda image: rotate(image, either_way(21)),
    }

    def __call__(self, image):
        image = np.array(image)
        for name in np.random.choice(list(self.OPERATIONS), 2):
            if random.random() > 0.5:
                continue
            image = self.OPERATIONS[name](image)
        return image
