"""The benchmark of LatentINDIGO: FLOPs against counting by hand, memory against the tile, keys, what the notes say."""
import functools
import json

import pytest

from eval import benchmark
from eval.speed import latent_indigo
from eval.speed.latent_indigo import Networks
from indigo_jax import models

TINY = Networks(
    "tiny", models.LatentUNet((8,), (False,), 1, num_heads=1, context_dim=0, in_channels=2, out_channels=2,
                              num_groups=2),
    models.TinyAutoencoder(latent_channels=2, channels=4, levels=1, num_blocks=1, pool_channels=0),
    *(models.GuidanceINN(channels=channels, levels=1, lifting_steps=2, width=4, cond_dim=3, num_blocks=1, cond_width=4,
                         offset=offset, reversible=True, encoder_channels=2, encoder_blocks=1)
      for channels, offset in ((3, 0.5), (2, 0.0))))


def per_latent(inputs, outputs, places=9):
    """Operations of a convolution for one place of its output."""
    return 2 * places * inputs * outputs


def by_hand(pixels):
    """Decoder and invertible networks, forward, per pixel of what they take; borders as if there were none."""
    decoder = per_latent(2, 4) / 4 + 3 * per_latent(4, 4) / 4  # conv_in, the block of the latents
    decoder += per_latent(4, 4) + 3 * per_latent(4, 4) + per_latent(4, 3)  # up, the block of the pixels, out

    def inn(c):  # on a quarter of the places, in two steps, forward and inverse: P and U, whose blocks have two layers
        step = per_latent(c, 4) + per_latent(4, 3 * c) + per_latent(3 * c, 4) + per_latent(4, c) + 4 * per_latent(4, 4)
        return 2 * 2 * step / 4

    return {"decoder": pixels * decoder, "pixel": pixels * inn(3), "latent": pixels / 4 * inn(2)}


@functools.cache
def row(variant):
    """Of 32 px, which is one tile of 16 latents."""
    return latent_indigo.row(TINY, variant, 32, tile=16)


@pytest.mark.parametrize("variant", ["latent", pytest.param("pixel", marks=pytest.mark.slow)])
def test_flops_of_the_parts_are_those_counted_by_hand(variant):
    """Guidance needs each part forward and backward; a reversible network computes its activations again for it."""
    wanted, none, found = by_hand(32**2), row("none"), row(variant)
    assert none["seconds"] is None and none["seconds_reason"] == "not asked for: --time 32"
    assert none["decoder_flops"] == none["inn_flops"] == 0
    assert found["inn_flops"] == pytest.approx(3 * wanted[variant], rel=0.05)
    assert found["decoder_flops"] == pytest.approx(2 * wanted["decoder"] if variant == "pixel" else 0, rel=0.05)
    assert 1.9 * none["network_flops"] < found["network_flops"] < 2.3 * none["network_flops"]  # and borders
    for each in (none, found):  # tiny networks add and compare a lot, too
        parts = sum(each[f"{part}_flops"] for part in (*latent_indigo.PARTS, "unnamed"))
        assert 0.8 * parts < each["flops_per_step"] < 2.5 * parts
    assert found["flops_per_step"] > 1.3 * none["flops_per_step"] and found["peak_bytes"] > none["peak_bytes"]


@pytest.mark.slow
def test_latents_need_less_than_pixels():
    pixel, latent = row("pixel"), row("latent")
    assert pixel["flops_per_step"] > 1.3 * latent["flops_per_step"] and pixel["peak_bytes"] > latent["peak_bytes"]


@pytest.mark.slow
def test_memory_and_network_flops_of_tiles():
    """Of 64 px 9 tiles of 16 latents, each computed again for its gradient: memory grows with pictures, not with
    activations, and the loop over tiles is counted nine times."""
    small, large = row("latent"), latent_indigo.row(TINY, "latent", 64, tile=16)
    latents = (32**2 - 16**2) * 4 * 2
    assert large["peak_bytes"] - small["peak_bytes"] < 40 * latents
    assert large["network_flops"] == pytest.approx(9 * 1.5 * small["network_flops"], rel=0.1)


@pytest.mark.slow
def test_the_truncated_gradient_goes_once_through_the_network():
    found = latent_indigo.row(TINY, "latent", 32, tile=16, gradient="truncated")
    assert found["network_flops"] == pytest.approx(row("none")["network_flops"])


def test_benchmark_prints_and_writes_its_rows(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(latent_indigo, "SMALL", TINY)
    monkeypatch.setattr(latent_indigo, "VARIANTS", ("none",))
    command = ["latent-indigo", "--sizes", "16", "--time", "16", "--repeats", "1"]
    assert benchmark.main([*command, "--json", str(tmp_path / "rows.json")]) == 0
    text, rows = capsys.readouterr().out, json.loads((tmp_path / "rows.json").read_text())
    assert [(row["variant"], row["size"]) for row in rows] == [("none", 16)]
    assert rows[0]["seconds"] > 0 and rows[0]["seconds_reason"] is None
    assert rows[0]["flops_per_step"] > 0 and rows[0]["peak_bytes"] > rows[0]["temporary_bytes"]
    assert text.splitlines()[0].split()[:2] == ["variant", "networks"]


def made_up(variant, size, flops, peak):
    return {"variant": variant, "size": size, "flops_per_step": flops, "peak_bytes": peak}


def test_notes_compare_latents_with_pixels():
    text = "\n".join(latent_indigo.notes([
        made_up("pixel", 256, 8.0, 6.0), made_up("latent", 256, 2.0, 2.0), made_up("pixel", 512, 30.0, 20.0),
        made_up("latent", 512, 3.0, 4.0), made_up("latent", 1024, 9.0, 5.0)]))
    assert "256 px: the network of latents needs 4 times fewer FLOPs and 3 times less memory" in text
    assert "512 px: the network of latents needs 10 times fewer FLOPs and 5 times less memory" in text
    assert "latent: peak memory at 1024 px is 2.5 times that at 256 px, 1.25 times that at 512 px" in text
    assert "pixel: peak memory" not in text


@pytest.mark.parametrize("arguments, words", [
    (["latent-indigo", "--sizes", "100"], "--sizes 100: not a multiple of 32"), (["--json"], "name a benchmark"),
    (["latent-indigo", "--gradient", "none"], "invalid choice")])
def test_bad_arguments_are_one_line(arguments, words, capsys):
    try:
        code = benchmark.main(arguments)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1


def test_not_run_says_why():
    args = type("Arguments", (), dict(large=True, sizes=[256], time=[256], gradient="full", repeats=1, seconds=1.0))
    rows = latent_indigo.latent_indigo(args)
    assert [row.args[1:] for row in rows] == [(variant, 256) for variant in latent_indigo.VARIANTS]
    assert rows[0].args[0] is latent_indigo.LARGE and not latent_indigo.LARGE.runs
