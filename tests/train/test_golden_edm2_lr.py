"""The inverse-square-root schedule against EDM2's, which counts samples where ours counts steps."""

import numpy as np
import pytest
from golden_files import families

from spresso_jax.train.optimizers import inverse_sqrt


@pytest.mark.golden
@pytest.mark.parametrize("path", families("diffusion", "edm2_lr"), ids=lambda p: p.stem)
def test_rates_match_one_step_earlier(path):
    golden = np.load(path)
    fields = golden["config_fields"].tolist()
    later = golden["steps"] > 0  # the reference idles at step 0; ours begins with its step 1
    for row, want in zip(golden["configs"], golden["lr"], strict=True):
        config = dict(zip(fields, row, strict=True))
        ramp = config["rampup_Mimg"] * 1e6 / config["batch_size"]
        schedule = inverse_sqrt(config["ref_lr"], ramp, config["ref_batches"])
        np.testing.assert_allclose(schedule(golden["steps"][later] - 1), want[later], rtol=1e-6)
    print(f"{path.name}: {len(golden['configs'])} cases")
