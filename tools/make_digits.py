"""Made tests/cnn/digits.npz, once, from scikit-learn's `load_digits` (needs scikit-learn, which nothing else here does).

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (CC BY 4.0), of which
scikit-learn carries the test set: 1,797 images of 8×8 pixels with values 0 to 16.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
np.savez_compressed(sys.argv[1], images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))
