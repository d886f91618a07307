"""Measures every case on files that it builds, and removes them: `python -m benchmarks.run --help`."""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.cases import CASES, Case, Contender
from benchmarks.files import_name import SMALL
