import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from lens_cache.features.attention import attend, fused


@pytest.mark.parametrize("masked", [True, False])
def test_on_a_gpu_masked_attention_is_kept_off_kernels_that_plan_each_shape(monkeypatch, masked):
    real, seen = F.scaled_dot_product_attention, []

    def spy(*arguments, **options):
        cuda = torch.backends.cuda
        seen.append((cuda.cudnn_sdp_enabled(), cuda.mem_efficient_sdp_enabled()))
        return real(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with FakeTensorMode(), torch.inference_mode():
        query = torch.empty(1, 2, 5, 8, device="cuda")
        mask = torch.ones(1, 1, 5, 5, dtype=torch.bool, device="cuda") if masked else None
        assert attend(query, query, query, mask).device.type == "cuda"
    assert seen == [(before and not masked, True)]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_on_a_cpu_the_kernel_is_pytorchs_choice():
    query = torch.rand(1, 2, 5, 8)
    mask = torch.rand(1, 1, 5, 5)
    expected = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert torch.equal(fused(query, query, query, mask), expected)
