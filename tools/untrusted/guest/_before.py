import os
import sys

# What lies in the working folder is the guest's, and must not be taken for a library.
sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())]
