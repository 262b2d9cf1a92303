"""A study that cannot run is refused with one message; an arm's settings are the study's, save what it changes."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from histoprompt.config import (
    ablation_arms,
    arm_settings,
    arm_titles,
    check_config,
    missing_encoders,
    mixes_with,
    morphology_of,
    varied_setting,
)
from histoprompt.environment import gpus_for
from histoprompt.errors import InputError

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture
def models(tmp_path):
    """Folders that look like models, for checks that read no weights."""
    for name in ("dino-vit", "resnet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / "diffusion" / part).mkdir(parents=True)
    (tmp_path / "diffusion/model_index.json").write_text("{}")
    (tmp_path / "diffusion/vae/config.json").write_text(json.dumps({"block_out_channels": [8, 8, 8, 8]}))
    return tmp_path


@pytest.fixture
def config(models):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["encoders"]["dino"]["model"] = str(models / "dino-vit")
    config["encoders"]["resnet"]["model"] = str(models / "resnet")
    config["generator"]["model"] = str(models / "diffusion")
    return config


def change(config, key, value):
    """Set a dotted key; the value `...` removes it."""
    *path, last = key.split(".", 1) if key.endswith("../up") else key.split(".")
    section = config
    for name in path:
        section = section[name]
    if value is ...:
        del section[last]
    else:
        section[last] = value


def message(config):
    with pytest.raises(InputError) as caught:
        check_config(config, schema=SCHEMA, study_file="config/mine.yaml")
    return str(caught.value)


def test_the_demo_passes(config):
    check_config(config, schema=SCHEMA, study_file="config/config.yaml")


def test_the_papers_study_passes_without_data_and_models(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    study = yaml.safe_load((ROOT / "config/pcam.yaml").read_text())
    check_config(study, schema=SCHEMA, study_file="config/pcam.yaml")
    assert study["morphology"]["k"] == 33 and study["generator"]["sampling"]["guidance"] == 7.5


def test_the_schema_is_a_schema_that_describes_and_closes_every_section():
    schema = yaml.safe_load(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)

    def visit(entry, path):
        if "properties" in entry:
            assert entry["additionalProperties"] is False, path
        for name, child in entry.get("properties", {}).items():
            assert child.get("description"), f"{path}.{name}"
            visit(child, f"{path}.{name}")
        if isinstance(entry.get("additionalProperties"), dict):
            visit(entry["additionalProperties"], f"{path}.*")
        for option in entry.get("anyOf", []):
            visit(option, path)

    visit(schema, "")


BAD_STUDIES = [
    ("arms.label.promts", "label", ["`arms.label.promts`", "a key that does not exist", "prompts"]),
    ("colour", 1, ["`colour`", "a key that does not exist"]),
    ("generator.finetune.steps", ..., ["`generator.finetune.steps`", "no such key", "config/README.md"]),
    ("morphology.k", 1, ["`morphology.k`", "found:    1", "≥ 2"]),
    ("morphology.sweep", [4, 1], ["`morphology.sweep.1`", "found:    1", "≥ 2"]),
    ("generator.finetune.learning_rate", "1e-5", ["'1e-5'", "a number", "1.0e-5"]),
    ("generator.finetune.precision", False, ["False", "bf16", '"no" in quotes']),
    ("arms.label.prompts", "colour", ["`arms.label.prompts`", "'colour'", "label, morphology, shuffled"]),
    ("arms.label.finetune", {"stepz": 3}, ["`arms.label.finetune.stepz`", "a key that does not exist", "steps"]),
    ("arms.label.finetune", {"steps": 0}, ["`arms.label.finetune.steps`", "found:    0", "≥ 1"]),
    ("arms.label.finetune", True, ["`arms.label.finetune`", "True", "false or a section"]),
    ("arms.label.sampling", {"images": 5}, ["`arms.label.sampling.images`", "a key that does not exist"]),
    ("arms.Label-2", {"prompts": "label"}, ["`arms.Label-2`", "lower-case"]),
    ("arms.real", {"prompts": "label"}, ["`arms.real`", "an arm named real", "rename"]),
    ("arms.vae", {"prompts": "label"}, ["`arms.vae`"]),
    ("arms.test", {"prompts": "label"}, ["`arms.test`"]),
    ("arms.label.encoder", "clip", ["`arms.label.encoder`", "'clip'", "dino, resnet"]),
    ("arms.label.k", 1, ["`arms.label.k`", "≥ 2"]),
    ("morphology.encoder", "dinno", ["`morphology.encoder`", "'dinno'", "dino, resnet"]),
    ("evaluation.encoders", ["dino", "inception"], ["`evaluation.encoders`", "'inception'", "dino, resnet"]),
    ("evaluation.protocols", ["matched", "legacy"], ["`evaluation.protocols.1`", "'legacy'", "one of matched, paper"]),
    ("evaluation.protocols", [], ["`evaluation.protocols`", "a list of matched, paper (not empty, none twice)"]),
    ("evaluation.neighbours", 1000, ["`generator.sampling.images`", "`evaluation.neighbours + 1`"]),
    ("evaluation.map.encoder", "inception", ["`evaluation.map.encoder`", "'inception'", "dino, resnet"]),
    ("evaluation.map.images", 10, ["`evaluation.map.images`", "at least 12", "`evaluation.map.regions`"]),
    ("replicates.arms", ["labels"], ["`replicates.arms`", "'labels'", "pretrained, label, morphology, shuffled"]),
    ("arms.k6", {"prompts": "label"}, ["`ablations.clusters.arms.k6`", "an arm named k6", "no other arm"]),
    ("ablations.clusters.arms.k6.encoder", "clip", ["`ablations.clusters.arms.k6.encoder`", "dino, resnet"]),
    ("ablations.clusters.arms.test", {"prompts": "label"}, ["`ablations.clusters.arms.test`", "rename"]),
    ("ablations.clusters.arms.k6.finetune", {"steps": 10}, ["`ablations.clusters.arms.k6.finetune.warmup_steps`"]),
    ("ablations.clusters.beside", ["k24"], ["`ablations.clusters.beside`", "'k24'", "pretrained, label"]),
    ("ablations.clusters.varies", "finetune.stepz", ["`ablations.clusters.varies`", "finetune.steps", "sampling.guidance"]),
    ("ablations.patches.arms.train_100.train", 1601, ["`subset.train`", "`ablations.patches.arms.train_100.train`"]),
    ("arms.label.model", "lable", ["`arms.label.model`", "'lable'", "morphology"]),
    ("arms.label.model", "label_w1", ["`arms.label.model`", "samples the model of 'label'", "a model of its own"]),
    ("ablations.guidance.arms.label_w1.seed", 1, ["`ablations.guidance.arms.label_w1.seed`", "the model of 'label'"]),
    ("data.classes", ["cancer"], ["`data.classes`", "two words"]),
    ("data.classes", [], ["`data.classes`", "two words"]),
    ("data.classes", ["a", "a"], ["`data.classes`"]),
    ("data.root", "somewhere", ["`data.root`", "'somewhere'", "null"]),
    ("data.source", "pcam", ["`data.root`", "null", "--config data='{root: PATH}'", "resources/pcam"]),
    ("data.phantom", None, ["`data.phantom`", "null", "a section"]),
    ("data.phantom.patches.train", 1169, ["`data.phantom.patches.train`", "1169", "`subset.train`"]),
    ("data.phantom.slides.test", 3000, ["`data.phantom.patches.test`", "`data.phantom.slides.test`"]),
    ("subset.train", 999, ["`subset.train`", "999", "at least 1000", "`generator.sampling.images`"]),
    ("shards.images", 0, ["shards", "images"]),
    (
        "ablations.text_gain.arms.gain_3.finetune",
        {"text_gain": 3, "lora": {"rank": 2, "alpha": 2}},
        ["`ablations.text_gain.arms.gain_3.finetune.text_gain`", "a gain of 3 beside lora", "one of the two"],
    ),
    ("generator.finetune.text_gain", 0, ["`generator.finetune.text_gain`", "> 0"]),
    ("generator.finetune.warmup_steps", 1000, ["`generator.finetune.warmup_steps`", "1000 warm-up steps of 200"]),
    ("arms.label.finetune", {"steps": 10}, ["`arms.label.finetune.warmup_steps`", "20 warm-up steps of 10"]),
    ("prompts.morphology", "tissue {label}", ["`prompts.morphology`", "{label} and {index}"]),
    ("prompts.label", "tissue {label} {index}", ["`prompts.label`", "index, label"]),
    ("prompts.descriptor", "tissue {label}", ["`prompts.descriptor`", "{label} and {descriptors}"]),
    ("arms.label.index", "roman", ["`arms.label.index`", "'roman'", "words, digits"]),
    ("descriptors", {}, ["`descriptors`", "{}"]),
    ("descriptors.eosin", ["pale"], ["`descriptors.eosin`", "['pale']"]),
    ("descriptors.colour", ["pale", "dark"], ["`descriptors.colour`", "does not exist", "haematoxylin"]),
    ("prompts.label", "tissue {label", ["`prompts.label`", "a broken brace"]),
    ("generator.model", "nowhere/at/all", ["`generator.model`", "no such folder", "40-digit"]),
    ("generator.model", "owner/name", ["`generator.model`", "no revision", "40-digit"]),
    ("generator.revision", "a" * 40, ["`generator.revision`", "is a folder", "null"]),
    ("generator.revision", "main", ["`generator.revision`", "'main'"]),
    ("generator.resolution", 100, ["`generator.resolution`", "a multiple of 8", "set it to 96"]),
    ("classifier.weights", "absent.safetensors", ["`classifier.weights`", "no file absent.safetensors"]),
    ("classifier.weights", "weights.pt", ["`classifier.weights`", "safetensors"]),
    ("reader_study.arms", ["labels"], ["`reader_study.arms`", "'labels'", "pretrained, label, morphology, shuffled"]),
    ("reader_study.arms", [], ["`reader_study.arms`", "not empty"]),
    ("reader_study.images", 44, ["`reader_study.images`", "44 images, for 2 arms, 2 classes and 4 blocks", "40 or 48"]),
    ("reader_study.blocks", 3, ["`reader_study.images`", "40 images", "3 blocks", "a multiple of 24", "24 or 48"]),
    ("reader_study.repeats", 41, ["`reader_study.images`", "found:    40", "at least 41", "`reader_study.repeats`"]),
    ("reader_study.training", 3, ["`reader_study.training`", "found:    3", "a multiple of 2"]),
    ("reader_study.images", 2000, ["`generator.sampling.images`", "found:    1000", "at least 1002"]),
    ("reader_study.display", "large", ["`reader_study.display`", "'large'", "matched, native"]),
    ("reader_study.answers", "nowhere", ["`reader_study.answers`", "no folder nowhere", "null"]),
    ("reader_study.margin", 0.5, ["`reader_study.margin`", "0.5", "< 0.5"]),
    ("reader_study.size", ..., ["`reader_study.size`", "no such key"]),
    ("classifier.augmentations", ["flip", "blur"], ["`classifier.augmentations.1`", "'blur'", "flip, rotate90, colour"]),
    ("classifier.seeds", [3, 3], ["`classifier.seeds`", "[3, 3]", "none twice"]),
    ("classifier.seeds", [], ["`classifier.seeds`", "not empty"]),
    ("learning_curve.seeds", [1, 2, 1], ["`learning_curve.seeds`", "[1, 2, 1]", "none twice"]),
    ("learning_curve.real", [50, 1601], ["`subset.train`", "at least 1601", "`learning_curve.real`"]),
    ("learning_curve.real", [1, 50], ["`learning_curve.real.0`", "≥ 2"]),
    ("learning_curve.arms", ["labels"], ["`learning_curve.arms`", "'labels'", "pretrained, label, morphology"]),
    ("study", "../up", ["`study`", "'../up'"]),
    ("data.classes", ["healthy", "../cancer"], ["`data.classes`", "'../cancer'", "no slash"]),
    ("data.classes", ["healthy", ".."], ["`data.classes`", "'..'", "no dot in front"]),
    ("data.classes", ["healthy", "/cancer"], ["`data.classes`", "'/cancer'", "no slash"]),
    ("study", "/tmp/study", ["`study`", "'/tmp/study'"]),
    ("arms.../up", {"prompts": "label"}, ["`arms.../up`", "lower-case"]),
    ("encoders./dino", {}, ["`encoders./dino`"]),
    ("ablations.../up", {}, ["`ablations.../up`"]),
]


@pytest.mark.parametrize(("key", "value", "parts"), BAD_STUDIES)
def test_one_message_says_what_to_do(config, key, value, parts):
    change(config, key, value)
    text = message(config)
    assert [part for part in [*parts, "found:", "expected:", "to do:"] if part not in text] == []


def test_a_reader_study_may_not_outgrow_browsers_nor_the_test_patches(config):
    config["reader_study"] |= {"display": "native", "images": 400}
    config["generator"]["resolution"] = 512
    text = message(config)
    assert "404 images of up to 512 pixels a side, a page of 424 MB" in text and "set `reader_study.display` to matched" in text
    config["reader_study"]["display"] = "matched"
    config["data"]["phantom"]["patches"]["test"] = 201
    text = message(config)
    assert "`data.phantom.patches.test`" in text and "at least 202" in text and "real images are test patches" in text


def test_several_mistakes_are_counted(config):
    config["morphology"]["k"] = 1
    config["colour"] = 1
    assert "(1 more to correct after this one)" in message(config)


def test_messages_name_the_study_file(config):
    config["morphology"]["k"] = 1
    assert "config/mine.yaml" in message(config)


def test_folders_that_are_no_models(config, models):
    (models / "dino-vit/config.json").unlink()
    assert all(part in message(config) for part in (str(models / "dino-vit"), "no config.json", "`encoders.dino.model`"))
    (models / "dino-vit/config.json").write_text("{}")
    (models / "diffusion/model_index.json").unlink()
    assert all(
        part in message(config) for part in (str(models / "diffusion"), "no model_index.json", "StableDiffusionPipeline")
    )
    (models / "diffusion/model_index.json").write_text("{}")
    (models / "diffusion/unet").rmdir()
    assert "no unet in it" in message(config)
    (models / "diffusion/unet").mkdir()


def test_encoders_of_every_kind(config, models):
    pinned = {"model": "hf-hub:owner/name", "revision": "a" * 40, "batch_size": 8, "dtype": "bfloat16"}
    weights = {"kind": "inception", "model": str(models / "w.pt"), "revision": None, "batch_size": 8, "dtype": "float32"}
    config["encoders"] |= {"uni": {"kind": "timm", **pinned}, "fid": weights}
    check_config(config, schema=SCHEMA, study_file="")
    assert missing_encoders(config) == {}  # nobody asks for it
    config["evaluation"]["encoders"] = ["dino", "fid"]
    check_config(config, schema=SCHEMA, study_file="")
    (reason,) = missing_encoders(config).values()
    assert all(part in reason for part in (str(models / "w.pt"), "inception-2015-12-05.pt", "95.6 MB", "f58cb9b6ec32"))
    config["morphology"]["encoder"] = "fid"
    assert all(part in message(config) for part in (str(models / "w.pt"), "no file", "`encoders.fid.model`", "f58cb9b6ec32"))
    (models / "w.pt").write_text("")
    assert missing_encoders(config) == {}
    check_config(config, schema=SCHEMA, study_file="")
    change(config, "encoders.fid.dtype", "bfloat16")
    assert all(part in message(config) for part in ("`encoders.fid.dtype`", "bfloat16", "in which FID is defined"))
    change(config, "encoders.fid.dtype", "float32")
    change(config, "encoders.fid.model", str(models))
    assert "a folder" in message(config)
    change(config, "encoders.fid.model", str(models / "w.pt"))
    change(config, "encoders.uni.kind", "transformers")
    assert "`encoders.uni.model`" in message(config)
    change(config, "encoders.uni.kind", "own")
    assert "one of transformers, clip, timm, inception" in message(config)


@pytest.mark.parametrize("name", ["vae/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("content", ["[", "[]"])
def test_a_model_whose_configuration_cannot_be_read(config, models, name, content):
    (models / "diffusion/text_encoder/config.json").write_text("{}")
    (models / "diffusion" / name).write_text(content)
    assert all(part in message(config) for part in (str(models / "diffusion" / name), "no usable configuration"))


def test_a_scheduler_that_cannot_follow_the_model():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())  # the shipped models
    config["generator"]["sampling"]["scheduler"] = "pndm"
    text = message(config)
    assert all(part in text for part in ("`generator.sampling.scheduler` of config/mine.yaml", "pndm, for a base model"))
    config["generator"]["sampling"]["scheduler"] = "ddim"
    config["arms"]["label"]["sampling"] = {"scheduler": "pndm"}
    assert "`arms.label.sampling.scheduler`" in message(config)


def test_a_prompt_longer_than_the_text_encoder_takes(config, models):
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.enable_truncation(4)
    tokenizer.save(str(models / "diffusion/tokenizer/tokenizer.json"))
    (models / "diffusion/text_encoder/config.json").write_text(json.dumps({"max_position_embeddings": 8}))
    config["ablations"] = {}
    check_config(config, schema=SCHEMA, study_file="")
    config["arms"] = {"far": {"prompts": "morphology", "k": 102}}
    config["replicates"]["arms"] = []
    config["reader_study"]["arms"] = ["far"]
    config["learning_curve"]["arms"] = ["far"]
    text = message(config)
    assert "`prompts.morphology`" in text and "at most 8 tokens" in text
    assert "a prompt of 9 tokens: 'Histology image of healthy tissue, morphology type one hundred'" in text


def test_the_longest_descriptors_count(config, models):
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(models / "diffusion/tokenizer/tokenizer.json"))
    (models / "diffusion/text_encoder/config.json").write_text(json.dumps({"max_position_embeddings": 12}))
    config["arms"] |= {"described": {"prompts": "descriptor"}}
    config["ablations"] = {}
    config["descriptors"] = {"eosin": ["pale", "of no great strength"], "texture": ["fine", "coarse or so"]}
    check_config(config, schema=SCHEMA, study_file="")
    config["descriptors"]["texture"][0] = "finer than anything else"
    text = message(config)
    assert "`prompts.descriptor`" in text and "the phrases of `descriptors`" in text
    assert "13 tokens: 'Histology image of healthy tissue, of no great strength, finer than anything else'" in text


@pytest.mark.parametrize("name", ["diffusion/unet/diffusion_pytorch_model.safetensors", "resnet/config.json"])
def test_embedded_models_are_those_of_the_repository(config, tmp_path, monkeypatch, name):
    shutil.copytree(ROOT / "resources/foundation", tmp_path / "clone/resources/foundation")
    monkeypatch.chdir(tmp_path / "clone")
    study = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    check_config(study, schema=SCHEMA, study_file="")
    file = Path("resources/foundation") / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    text = message(study)
    assert all(part in text for part in (str(file), "SHA-256", "manifest.json", "git checkout resources/foundation"))
    file.unlink()
    assert str(file) in message(study) or str(file.parent) in message(study)


def test_roots(config, tmp_path):
    config["data"] |= {"source": "pcam", "root": str(tmp_path / "absent")}
    assert all(part in message(config) for part in (str(tmp_path / "absent"), "nothing there", "its five sisters"))
    (tmp_path / "absent").mkdir()
    for part in ("train_x", "train_y", "valid_x", "valid_y", "test_x"):
        (tmp_path / "absent" / f"camelyonpatch_level_2_split_{part}.h5").touch()
    assert "found:    no camelyonpatch_level_2_split_test_y.h5\n" in message(config)
    (tmp_path / "absent/camelyonpatch_level_2_split_test_y.h5").touch()
    check_config(config, schema=SCHEMA, study_file="")
    config["data"] |= {"source": "table"}
    assert all(part in message(config) for part in ("a folder", "a CSV file"))
    (tmp_path / "table.csv").touch()
    config["data"] |= {"root": str(tmp_path / "table.csv"), "classes": []}
    check_config(config, schema=SCHEMA, study_file="")
    config["data"] |= {"source": "folders"}
    assert "a file" in message(config)
    config["data"] |= {"root": str(tmp_path), "holdout": {"valid": 0.5, "test": 0.5}}
    assert "`data.holdout`" in message(config)
    config["data"]["holdout"] = None
    assert all(part in message(config) for part in ("`data.holdout`", "`data.source` is folders"))


def test_an_arm_has_the_studys_settings_save_what_it_changes(config):
    before = copy.deepcopy(config)
    config["arms"]["label"] = {"prompts": "label", "seed": 5, "k": 7, "finetune": {"steps": 9}, "sampling": {"guidance": 3.0}}
    settings = arm_settings(config, "label")
    assert (settings["prompts"], settings["seed"], settings["k"], settings["encoder"]) == ("label", 5, 7, "dino")
    assert settings["index"] == "words"
    assert settings["finetune"] == {**before["generator"]["finetune"], "steps": 9}
    assert settings["sampling"] == {**before["generator"]["sampling"], "guidance": 3.0}
    assert config["generator"] == before["generator"]
    assert arm_settings(config, "pretrained")["finetune"] is None
    assert arm_settings(config, "morphology")["seed"] == config["seed"]


def test_a_replicate_is_its_arm_with_another_seed(config):
    arm, replicate = arm_settings(config, "shuffled"), arm_settings(config, "shuffled-seed3")
    assert replicate == {**arm, "model": "shuffled-seed3", "seed": 3, "image_seed": 3, "clusters_seed": 3}
    config["replicates"]["recluster"] = False
    assert arm_settings(config, "shuffled-seed3") == {**replicate, "clusters_seed": None}


def test_an_arm_may_sample_another_ones_model(config):
    config["arms"]["morphology"] |= {"finetune": {"steps": 9}, "seed": 5, "train": 400}
    config["arms"]["more"] = {"prompts": "morphology", "model": "morphology", "sampling": {"guidance": 7.5}}
    for suffix in ("", "-seed3"):
        more, arm = (arm_settings(config, name + suffix) for name in ("more", "morphology"))
        assert more == arm | {"sampling": arm["sampling"] | {"guidance": 7.5}} and more["model"] == "morphology" + suffix


def test_an_ablations_arms_are_arms(config):
    assert ablation_arms(config, "training")[:3] == ["pretrained", "morphology", "steps_25"]
    assert [varied_setting(config, arm, "finetune.steps") for arm in ("pretrained", "morphology", "steps_25")] == [
        None,
        200,
        25,
    ]
    assert varied_setting(config, "morphology_w5", "sampling.guidance") == 5 and varied_setting(config, "k33", "k") == 33
    assert arm_settings(config, "morphology_w5")["model"] == "morphology"
    assert morphology_of(config, "by_resnet-seed1") == {"encoder": "resnet", "k": 16, "clusters_seed": 1}
    assert arm_settings(config, "train_100") == arm_settings(config, "morphology") | {"model": "train_100", "train": 100}


def test_no_arm_has_more_clusters_than_there_are_patches(config):
    config["data"]["phantom"]["patches"]["train"] = 900
    config["subset"]["train"] = config["generator"]["sampling"]["images"] = 800
    check_config(config, schema=SCHEMA, study_file="")
    config["ablations"]["clusters"]["arms"]["k33"]["k"] = 999
    assert all(part in message(config) for part in ("`data.phantom.patches.train`", "at least 999", "the largest k"))


def test_titles_are_those_of_the_arms_asked_for(config):
    config["ablations"]["clusters"]["arms"]["k6"]["title"] = "few"
    assert arm_titles(config, ["label", "k6"]) == {"k6": "k6: few"}


def test_image_sets_are_judged_by_their_arms_clusters(config):
    config["arms"]["label"] = {"prompts": "label", "k": 7, "encoder": "resnet"}
    assert morphology_of(config, "label") == {"encoder": "resnet", "k": 7, "clusters_seed": None}
    assert morphology_of(config, "label-seed2") == {"encoder": "resnet", "k": 7, "clusters_seed": 2}
    of_study = {"encoder": "dino", "k": 12, "clusters_seed": None}
    assert morphology_of(config, "real") == morphology_of(config, "vae") == of_study


def test_mixes():
    assert mixes_with(["a", "b"]) == ["a", "real+a", "b", "real+b"]


def test_gpus():
    assert gpus_for("cpu") == 0 and gpus_for("cuda") == 1 and gpus_for("auto") in (0, 1)


def test_the_described_config_is_up_to_date():
    import describe_config

    assert (ROOT / "config/README.md").read_text() == describe_config.describe(), "run: python tools/describe_config.py"


def test_conda_has_the_locks_pins():
    import make_conda_env

    environment = yaml.safe_load((ROOT / "envs/histoprompt.yaml").read_text())
    lock = (ROOT / "envs/requirements.txt").read_text()
    pinned = environment["dependencies"][-1]["pip"]
    assert pinned == make_conda_env.pins(lock), "run: python tools/make_conda_env.py"
    assert len(pinned) == sum(line[:1].isalnum() for line in lock.splitlines())


def test_no_registry_host_is_written_anywhere():
    for name in ("envs/requirements.txt", "envs/uv.txt", "envs/requirements.in", "envs/histoprompt.yaml", "Makefile"):
        text = (ROOT / name).read_text()
        assert "://" not in text and "index-url " not in text.replace("--no-emit-index-url", ""), name
