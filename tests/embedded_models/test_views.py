import torch
from embedded_models.views import seen_views
from retouch.diffusion.schedule import cosine
from retouch.models.pixel_unet import PixelUNet, cosine_alphas_cumprod


def test_views_show_the_mask_or_the_whole_scene() -> None:
    torch.manual_seed(0)
    x0 = torch.rand(64, 3, 32, 32) * 2 - 1
    masks = torch.zeros(64, 1, 32, 32, dtype=torch.bool)
    masks[:, :, 8:24, 8:24] = True
    views = seen_views(x0, masks, 64)
    assert views.pixels.shape == (64, 3, 64, 64)
    plain = views.plain & views.masked
    corner = views.pixels[plain][:, :, :16, :16]
    assert plain.any()
    assert set(corner.unique().tolist()) <= {0.0, 0.5}  # black or mid-grey
    inside = views.pixels[plain][:, :, 16:48:2, 16:48:2]
    torch.testing.assert_close(inside, (x0[plain][:, :, 8:24, 8:24] + 1) / 2)


def test_the_networks_schedule_is_the_samplers() -> None:
    torch.testing.assert_close(cosine_alphas_cumprod(1000), torch.from_numpy(cosine(1000).alphas_cumprod))


def test_eps_and_velocity_agree_with_their_definition() -> None:
    torch.manual_seed(0)
    config = {
        "schedule": "cosine",
        "prediction": "v",
        "timesteps": 1000,
        "fold": 2,
        "unet": {
            "sample_size": 8,
            "in_channels": 12,
            "out_channels": 12,
            "block_out_channels": [8, 8],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "norm_num_groups": 4,
        },
    }
    model = PixelUNet.from_config(config)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    alpha = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    with torch.no_grad():
        v, eps = model.velocity(x, t), model(x, t.float())
    x0 = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    torch.testing.assert_close(alpha.sqrt() * eps - (1 - alpha).sqrt() * x0, v, rtol=1e-4, atol=1e-4)
