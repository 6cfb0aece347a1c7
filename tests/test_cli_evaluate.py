"""``indigo evaluate`` of NIQE, FID and KID: columns that say how, weights and parameters by file, what is missing."""
import csv
import pathlib

import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from indigo_jax import metrics, weights
from indigo_jax.cli import main
from tests.test_niqe import picture


class Coarse(nn.Module):
    """Features of a tiny network: the means of 169 squares, times one number."""

    @nn.compact
    def __call__(self, x):
        means = x.reshape(len(x), 13, 23, 13, 23, 3).mean(axis=(2, 4)).reshape(len(x), -1)
        return means * self.param("factor", nn.initializers.ones, (1,))


def coarse(pictures, resize):
    x = np.concatenate([metrics.inception_input(x, resize=resize) for x in pictures]).astype(np.float64)
    return 3.0 * x.reshape(len(x), 13, 23, 13, 23, 3).mean(axis=(2, 4)).reshape(len(x), -1)


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.registry, "_REGISTERED", {})
    weights.register("Coarse", Coarse, kind="features", inputs=lambda module: ((1, 299, 299, 3),))
    info = {"architecture": "Coarse", "arguments": {}, "kind": "features",
            "source": {"sha256": {"pt_inception.pth": f"6726825d{56 * '0'}"}}}
    weights.save(tmp_path / "coarse.safetensors", {"params": {"factor": np.full(1, 3.0)}}, info, dtype="float32")
    return tmp_path / "coarse.safetensors"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        for folder, blur in (("true", 1.0), ("got", 1.5)):
            pathlib.Path(folder).mkdir(exist_ok=True)
            Image.fromarray(picture(seed, (96, 192), blur)).save(f"{folder}/{name}.png")


def read(folder, name):
    return np.asarray(Image.open(f"{folder}/{name}.png"))[None]


def evaluate(*arguments):
    return main(["evaluate", "--reference", "true", "--restored", "got", *map(str, arguments)])


def test_every_column_says_how(folders, network, capsys):
    assert evaluate("--metrics", "psnr,niqe,fid,kid,fid-inception2015-legacy", "--inception", network,
                    "-o", "scores.csv") == 0
    said = capsys.readouterr()
    assert "note: FID of 3 pictures" in said.err
    *rows, mean = csv.DictReader(pathlib.Path("scores.csv").read_text().splitlines())
    assert list(mean) == ["name", "psnr-rgb-crop0-u8", "niqe-bsds400-gray-crop0", "fid-inception2015-clean",
                          "kid-inception2015-clean", "fid-inception2015-legacy"]
    for row in rows:
        assert float(row["niqe-bsds400-gray-crop0"]) == metrics.niqe(read("got", row["name"]))[0]
        assert row["fid-inception2015-clean"] == row["kid-inception2015-clean"] == ""
    for resize in ("clean", "legacy"):
        a, b = (coarse([read(folder, name) for name in "abc"], resize) for folder in ("got", "true"))
        assert float(mean[f"fid-inception2015-{resize}"]) == pytest.approx(metrics.fid(a, b), rel=1e-4)
        if resize == "clean":
            assert float(mean["kid-inception2015-clean"]) == pytest.approx(metrics.kid(a, b).mean, rel=1e-3)


def test_a_network_of_other_weights_has_their_digits_for_a_name(network):
    module, params, info = weights.load(network, kind="features")
    assert metrics.feature_network(module, params, info).name == "inception2015"
    other = metrics.feature_network(module, params, {**info, "source": {}})
    assert other.name == info["sha256"][:8] and metrics.set_by_name("kid", other).name == f"kid-{other.name}-clean"
    with pytest.raises(ValueError, match="by the network inception2015, and the one given is"):
        metrics.set_by_name("fid-inception2015-clean", other)


def test_official_parameters_by_file_have_their_name_in_the_column(folders, capsys, tmp_path):
    from scipy import io
    model = metrics.default_niqe()
    io.savemat("niqe_modelparameters.mat", {"mu_prisparam": 1.1 * model.mean[None], "cov_prisparam": model.cov})
    assert main(["weights", "convert", "niqe_modelparameters.mat", "-o", "niqe.npz", "--from", "niqe"]) == 0
    assert "--niqe-parameters" in capsys.readouterr().out
    theirs = metrics.load_niqe("niqe.npz")
    assert evaluate("--metrics", "niqe", "--niqe-parameters", "niqe.npz") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["name", f"niqe-{theirs.name}-gray-crop0"] and theirs.name != "bsds400"
    assert float(out[1].split()[1]) == pytest.approx(metrics.niqe(read("got", "a"), theirs)[0], abs=5.1e-5)
    assert evaluate("--metrics", "niqe-bsds400-gray-crop0", "--niqe-parameters", "niqe.npz") == 2
    assert "parameters bsds400, and those given are" in capsys.readouterr().err
    for source, words in (("absent.mat", "no such file"), ("true/a.png", "no checkpoint")):
        assert main(["weights", "convert", source, "-o", "b.npz", "--from", "niqe"]) == 2
        assert words in capsys.readouterr().err and not pathlib.Path("b.npz").exists()
    pathlib.Path("text.mat").write_text("no")
    assert main(["weights", "convert", "text.mat", "-o", "b.npz"]) == 2  # recognised by its suffix
    assert "not a .mat file" in capsys.readouterr().err
    assert main(["weights", "convert", "niqe.npz", "-o", "b.safetensors"]) == 2  # and by its arrays
    assert "name it b.npz" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, words", [
    (["--metrics", "fid"], "fid needs --inception FILE"), (["--metrics", "fid-inception2015-area"], "unknown metric"),
    (["--metrics", "kid", "--inception", "photo"], "where a network of features is needed"),
    (["--metrics", "kid", "--inception", "absent.safetensors"], "no such weights file"),
    (["--metrics", "niqe", "--niqe-parameters", "absent.npz"], "no NIQE parameters at")])
def test_what_is_missing_is_said(folders, capsys, arguments, words):
    assert evaluate(*arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_pair_of_two_sizes_names_both_files(folders, capsys):
    Image.open("got/b.png").crop((0, 0, 192, 90)).save("got/b.png")
    assert evaluate("--metrics", "psnr") == 1
    said = capsys.readouterr()
    assert "got/b.png: 192 x 90 pixels, but its reference true/b.png has 192 x 96; nothing is resized" in said.err


# ---------------------------------------------------------------- statistics in place of the references

@pytest.mark.parametrize("restored", [["--restored", "got"], []])
def test_statistics_stand_for_the_references(folders, network, capsys, restored):
    command = ["evaluate", "--metrics", "fid", "--inception", str(network)]
    assert main([*command, "--reference", "true", *restored, "--save-statistics", "kept/true.npz"]) == 0
    said = capsys.readouterr()
    assert "kept/true.npz: statistics of 3 pictures by inception2015-clean" in said.err
    assert bool(said.out) == bool(restored)
    found = metrics.load_statistics("kept/true.npz", protocol="inception2015-clean")
    a, b = (coarse([read(folder, name) for name in "abc"], "clean") for folder in ("got", "true"))
    np.testing.assert_allclose(found.mean, b.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.cov, np.cov(b, rowvar=False), rtol=1e-3, atol=1e-7)
    assert found.count == 3
    for name in "abc":
        pathlib.Path(f"true/{name}.png").unlink()  # nothing but the file is needed
    assert main([*command, "--reference", "kept/true.npz", "--restored", "got", "-o", "scores.csv"]) == 0
    *rows, mean = csv.DictReader(pathlib.Path("scores.csv").read_text().splitlines())
    assert len(rows) == 3
    assert float(mean["fid-inception2015-clean"]) == pytest.approx(metrics.fid(a, b), rel=1e-3)
    assert "does not say" not in capsys.readouterr().err


def test_published_statistics_are_taken_with_a_note(folders, network, capsys):
    features = coarse([read("true", name) for name in "abc"], "clean")
    np.savez("published.npz", mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))
    command = ["evaluate", "--reference", "published.npz", "--restored", "got", "--inception", str(network)]
    assert main([*command, "--metrics", "fid,niqe"]) == 0  # niqe is of the restored alone
    out, err = capsys.readouterr()
    assert "note: published.npz does not say of how many pictures it is" in err
    assert out.splitlines()[0].split() == ["name", "niqe-bsds400-gray-crop0", "fid-inception2015-clean"]


@pytest.mark.parametrize("changes, words", [
    ({"--metrics": "psnr,fid"}, "statistics, by which fid alone is measured, not psnr-rgb"),
    ({"--metrics": "fid,kid"}, "by which fid alone is measured, not kid-inception2015-clean"),
    ({"--metrics": "niqe"}, "by which fid alone is measured; add --metrics fid"),
    ({"--metrics": "fid-inception2015-legacy"}, "by inception2015-clean, and inception2015-legacy is wanted"),
    ({"--reference": "absent.npz"}, "no statistics of features at 'absent.npz'"),
    ({"--reference": "true", "--save-statistics": "a.txt"}, "name it a.npz, not a.txt"),
    ({"--reference": "true", "--save-statistics": "a.npz", "--metrics": "psnr"}, "fid once in --metrics"),
    ({"--save-statistics": "a.npz"}, "give a folder of them"),
    ({"--reference": "true", "--save-statistics": "a.npz", "--metrics": "fid,psnr", "--restored": None},
     "without --restored measures nothing"),
    ({"--restored": None}, "--restored DIR is missing")])
def test_statistics_that_make_no_sense(folders, network, capsys, changes, words):
    features = coarse([read("true", name) for name in "abc"], "clean")
    metrics.save_statistics("kept.npz", metrics.feature_statistics(features), protocol="inception2015-clean")
    given = {"--reference": "kept.npz", "--restored": "got", "--metrics": "fid", "--inception": str(network), **changes}
    assert main(["evaluate", *(each for pair in given.items() if pair[1] is not None for each in pair)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not pathlib.Path("a.npz").exists()


def test_statistics_of_references_that_cannot_be_read_are_not_kept(folders, network, capsys):
    pathlib.Path("true/b.png").write_bytes(pathlib.Path("true/b.png").read_bytes()[:500])
    assert main(["evaluate", "--metrics", "fid", "--inception", str(network), "--reference", "true",
                 "--save-statistics", "a.npz"]) == 1
    err = capsys.readouterr().err
    assert "true/b.png: a truncated" in err and "a.npz: not written, as 1 could not be read" in err
    assert not pathlib.Path("a.npz").exists()


def test_a_metric_that_a_picture_is_too_small_for_leaves_the_others(folders, capsys):
    for folder in ("true", "got"):
        Image.fromarray(picture(7, (64, 64), 1.0)).save(f"{folder}/b.png")
    assert evaluate("--metrics", "psnr,niqe", "-o", "scores.csv") == 1
    said = capsys.readouterr()
    assert "got/b.png: NIQE needs at least two blocks" in said.err and said.err.count("\n") == 1
    *rows, mean = csv.DictReader(pathlib.Path("scores.csv").read_text().splitlines())
    niqe = "niqe-bsds400-gray-crop0"
    assert [row["name"] for row in rows] == ["a", "b", "c"] and rows[1][niqe] == "" and rows[1]["psnr-rgb-crop0-u8"]
    assert float(mean[niqe]) == pytest.approx((float(rows[0][niqe]) + float(rows[2][niqe])) / 2)


def test_a_table_that_cannot_be_written_is_refused_before_the_work(folders, network, capsys, monkeypatch):
    monkeypatch.setattr(metrics, "score_pairs", lambda *_: pytest.fail("measured"))
    pathlib.Path("file").touch()
    for more in (["--metrics", "psnr", "-o", "file/scores.csv"],
                 ["--metrics", "fid", "--inception", network, "--save-statistics", "file/a.npz"]):
        assert evaluate(*more) == 2
        assert "file is no folder" in capsys.readouterr().err
