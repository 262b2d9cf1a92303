import atexit
import os
import re
import shlex
import sys
from datetime import datetime
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Snakemake runs a script by a line for the shell, and leaves the quotes out that an interpreter in a folder with spaces needs (its
# issue 2645).
if Path(sys.executable).exists():
    sys.executable = shlex.quote(sys.executable)

# The project's own folder, which is not the workflow's where another one uses this as a module.
ROOT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from histoprompt.config import (
    DOWNLOADED_PCAM,
    ablation_arms,
    all_arms,
    arm_settings,
    arm_titles,
    check_config,
    missing_encoders,
    mixes_with,
    morphology_of,
    varied_setting,
)
from histoprompt.digest import code_digest as digest_of_script
from histoprompt.digest import model_digest
from histoprompt.environment import gpus_for
from histoprompt.errors import InputError
from histoprompt.fingerprints import fingerprint
from histoprompt.locking import hold_lock, remove_stale_locks
from histoprompt.reader_study.answers import find_answers
from histoprompt.reader_study.kinds import simulated_readers
from histoprompt.more.request import images_of_request, seed_of_request
from histoprompt.report.parts import files_on_request
from histoprompt.templates import names_cluster, names_descriptors, template_of

SCRIPTS = ROOT / "workflow/scripts"

try:
    check_config(
        config,
        schema=ROOT / "workflow/schemas/config.schema.yaml",
        study_file=" + ".join(os.path.relpath(file) for file in workflow.configfiles) or "the module's config",
    )
except InputError as error:
    raise WorkflowError(str(error)) from None

# Snakemake's own locks outlive a kill. A run of ours holds one that does not (`begin`), and whoever finds none held clears up.
if workflow.is_main_process:
    remove_stale_locks(".snakemake/locks", Path("results").glob("*/.lock"))

STUDY = config["study"]
STUDY_FOLDER = str(workflow.modifier.modify_path(f"results/{STUDY}", "output"))  # wherever a module's prefix has put it
SPLITS = ["train", "valid", "test"]
ARMS = list(config["arms"])
PATCH_SIZE, RESOLUTION = config["data"]["patch_size"], config["generator"]["resolution"]
COMPARED_SIZE = min(PATCH_SIZE, RESOLUTION)
# Real patches sent to the generator's size and back, where that is another one, and through its autoencoder.
CONTROLS = ["vae"] if PATCH_SIZE == RESOLUTION else ["resampled", "vae"]
OF_REAL_PATCHES = ["real", *CONTROLS]
IMAGE_SETS = [*OF_REAL_PATCHES, *ARMS]
TITLES = arm_titles(config, ARMS)
ABLATIONS = list(config["ablations"])
MISSING_ENCODERS = missing_encoders(config)
THREADS = config["threads"]
GPUS = gpus_for(config["device"])
CLASSIFIER = {key: value for key, value in config["classifier"].items() if key != "seeds"}
CURVES = ["real", *config["learning_curve"]["arms"]]
ANY_ARM = f"(?:{'|'.join(all_arms(config))})(?:-seed[0-9]+)?"


# `--set-scatter images=20` overrides the study's numbers for one run.
scattergather:
    patches=config["shards"]["patches"],
    images=config["shards"]["images"],


wildcard_constraints:
    study=re.escape(STUDY),
    split="|".join(SPLITS),
    encoder="|".join(config["encoders"]),
    k="[0-9]+(?:-seed[0-9]+)?",
    scatteritem="[0-9]+-of-[0-9]+",
    arm=ANY_ARM,
    images=f"{'|'.join(SPLITS)}|real|resampled|vae|{ANY_ARM}",
    sampled=f"real|resampled|vae|{ANY_ARM}",
    ablation="|".join(ABLATIONS),
    mix=rf"real|(?:real\+)?{ANY_ARM}",
    curve="|".join(CURVES),
    seed="[0-9]+",
    request="[A-Za-z0-9][A-Za-z0-9_-]*",


def code_digest(script):
    """What the script and all library code it imports compute, whatever their comments, docstrings and time stamps."""
    return digest_of_script(SCRIPTS / f"{script}.py")


def growing(mem_mb):
    """Memory that grows with every further try, where the profile of a cluster has any."""
    return lambda wildcards, attempt: attempt * mem_mb


def study_results():
    """Every file of a study that a reader looks at."""
    return collect(
        "results/{study}/{file}",
        study=STUDY,
        file=[
            "report.html",
            "summary.csv",
            "summary.md",
            "figures/arms.png",
            "figures/coverage.png",
            "figures/reliability.png",
            "reader_study/page/index.html",
            "reader_study/key.json",
            analysis_of_readers(),
            "clusters/{encoder}/k{k}/atlas.png".format(**config["morphology"]),
            "clusters/{encoder}/sweep.png".format(**config["morphology"]),
            *(f"patches/{split}.dropped.csv" for split in SPLITS),
            *(f"samples/{arm}/dataset/{file}" for arm in ARMS for file in ("metadata.csv", "README.md")),
            *(f"models/{arm}/README.md" for arm in finetuned_models()),
            *table_of_descriptors(config["arms"]),
        ],
    )


def analysis_of_readers():
    """The analysis of the readers' answers; of simulated readers, as long as there are none."""
    folder = "simulated_analysis/" if config["reader_study"]["answers"] is None else ""
    return f"reader_study/{folder}analysis.md"


def of_arm(key):
    """One setting of the wildcards' arm: the study's own, unless the arm changes it."""
    return lambda wildcards: arm_settings(config, wildcards.arm)[key]


def of_encoder(key):
    """One setting of the wildcards' encoder. (`lookup` would search the whole config for each of ten thousand shards.)"""
    return lambda wildcards: config["encoders"][wildcards.encoder][key]


def encoders_of_study():
    """The encoders that the study's own tables need, missing ones too."""
    return list(dict.fromkeys([config["morphology"]["encoder"], *config["evaluation"]["encoders"]]))


def template_of_arm(wildcards):
    """The one template that the prompts of the wildcards' arm fill, by its name."""
    kind = template_of(arm_settings(config, wildcards.arm)["prompts"])
    return {kind: config["prompts"][kind]}


def of_image_set(key):
    """The morphology setting by which an image set is judged: its arm's, or the study's for real and reconstructed images."""
    return lambda wildcards: morphology_of(config, wildcards.sampled)[key]


def of_clustering(study, settings, file, folder="clusters"):
    """A file of one clustering, or of what was made from it; those of replicates are told apart by their seed."""
    own = settings.get("clusters_seed")
    return f"results/{study}/{folder}/{settings['encoder']}/k{settings['k']}{'' if own is None else f'-seed{own}'}/{file}"


def number_of_clusters(wildcards):
    """How many clusters the wildcards' clustering has, whose `k` names its seed too where that is a replicate's."""
    return int(wildcards.k.split("-seed")[0])


def seed_of_clusters(wildcards):
    """The seed of the wildcards' clustering, and of the subset drawn from it."""
    return int(wildcards.k.split("-seed")[1]) if "-seed" in wildcards.k else config["seed"]


def clusters_of_arm(file):
    """A file of the clustering from which the wildcards' arm takes its training images and its prompts."""
    return lambda wildcards: of_clustering(wildcards.study, arm_settings(config, wildcards.arm), file)


def table_of_descriptors(arms):
    """The comparison of images with their captions' descriptors, where the captions of one of these arms name any."""
    return ["descriptors.md"] if any(names_descriptors(entry["prompts"]) for entry in arms.values()) else []


def compared_by_descriptors():
    """The study's arms, all scored against one request, and the arms of ablations whose captions name descriptors."""
    others = {name: entry for name, entry in all_arms(config).items() if name not in ARMS}
    return ["vae", *ARMS, *(name for name, entry in others.items() if names_descriptors(entry["prompts"]))]


def where_prompts_name_descriptors(file):
    """A file of the study's descriptors, for arms whose prompts name them."""
    return lambda wildcards: (
        f"results/{wildcards.study}/{file}" if names_descriptors(arm_settings(config, wildcards.arm)["prompts"]) else []
    )


def latents_of_arm(file):
    """A file of the latents of the arm's training images, which arms of the same clustering share."""
    return lambda wildcards: of_clustering(wildcards.study, arm_settings(config, wildcards.arm), file, "latents")


def file_of_images(wildcards):
    """The HDF5 file of an image set: a split of the data, or sampled images."""
    folder = "patches" if wildcards.images in SPLITS else "samples"
    return f"results/{wildcards.study}/{folder}/{wildcards.images}.h5"


def kinds_of_encoders(wildcards):
    """What an encoder is decides what its distances are called, and whether it has a CMMD."""
    return {encoder: config["encoders"][encoder]["kind"] for encoder in [*encoders_of_image_set(wildcards), *MISSING_ENCODERS]}


def native_file(study, images):
    """A sampled image set at the size at which it was made: real patches at theirs, all else at the generator's resolution."""
    form = "h5" if images == "real" or PATCH_SIZE == RESOLUTION else "native.h5" if images in CONTROLS else "csv"
    return f"results/{study}/samples/{images}.{form}"


def native_file_of_images(wildcards):
    """An image set at the size at which it was made: a split of the data, or sampled images."""
    return file_of_images(wildcards) if wildcards.images in SPLITS else native_file(wildcards.study, wildcards.images)


def shard(wildcards):
    """Number, from 0, and how many there are, of the wildcards' shard."""
    number, shards = wildcards.scatteritem.split("-of-")
    return int(number) - 1, int(shards)


def shards_of(pattern):
    """The files of all shards of the wildcards' image set, by a pattern with one `{shard}` in place of the shard."""

    def paths(wildcards):
        gathered = gather.patches if wildcards.images in SPLITS else gather.images
        return gathered(pattern.format(**wildcards, shard="{scatteritem}"))

    return paths


def encoder_digest(wildcards):
    return model_digest(config["encoders"][wildcards.encoder]["model"])


def generator_digest(wildcards):
    return model_digest(config["generator"]["model"])


def downloaded(wildcards):
    """The download, where the study uses it; a root of the user's own is no concern of Snakemake's."""
    return ancient(local(f"{DOWNLOADED_PCAM}/manifest.json")) if config["data"]["root"] == DOWNLOADED_PCAM else []


def content_of_source(wildcards):
    """Changes when the source's files change, never because of their time stamps; downloaded files are checked already."""
    return (
        "official"
        if config["data"]["root"] == DOWNLOADED_PCAM
        else fingerprint(config["data"]["source"], config["data"]["root"])
    )


def finetuned_model(wildcards):
    """The arm's own model; nothing for an arm that samples from the base model."""
    settings = arm_settings(config, wildcards.arm)
    return [] if settings["finetune"] is None else f"results/{wildcards.study}/models/{settings['model']}/manifest.json"


def of_model(folder):
    """A folder of a model's own in the study's, wherever a module's prefix has put that."""
    return lambda wildcards, output: f"{Path(output.manifest).parents[2]}/{folder}/{wildcards.arm}"


def judged_by_the_studys_clusters():
    """Image sets that can stand beside each other cluster by cluster; arms with clusters of their own cannot."""
    study = morphology_of(config, "real")
    return [sampled for sampled in IMAGE_SETS if morphology_of(config, sampled) == study]


def clusters_of_arms_own():
    """The clusters of each arm that is not judged by the study's."""
    return {
        arm: "{encoder}, k = {k}".format(**morphology_of(config, arm))
        for arm in ARMS
        if arm not in judged_by_the_studys_clusters()
    }


def arms_that_name_clusters():
    """The study's arms whose prompts say which cluster is asked for."""
    return [arm for arm, entry in config["arms"].items() if names_cluster(entry["prompts"])]


def of_morphology(file):
    """A file of the clustering by which an image set is judged."""
    return lambda wildcards: of_clustering(wildcards.study, morphology_of(config, wildcards.sampled), file)


def trained_on(wildcards):
    """The rows of the train split that an image set's model was trained on; of real and reconstructed images, the whole subset."""
    if wildcards.sampled in OF_REAL_PATCHES:
        return of_clustering(wildcards.study, morphology_of(config, wildcards.sampled), "subset.train.csv")
    return f"results/{wildcards.study}/prompts/{arm_settings(config, wildcards.sampled)['model']}.train.csv"


def features_in_morphology_space(images):
    """Features of an image set by the encoder whose clusters judge the wildcards' one."""

    def path(wildcards):
        encoder = morphology_of(config, wildcards.sampled)["encoder"]
        return f"results/{wildcards.study}/embeddings/{encoder}/{images.format(**wildcards)}.npy"

    return path


def encoders_of_image_set(wildcards):
    """The feature spaces of the evaluation whose models are there, and the one in which the morphology is told."""
    there = [encoder for encoder in config["evaluation"]["encoders"] if encoder not in MISSING_ENCODERS]
    return list(dict.fromkeys([*there, morphology_of(config, wildcards.sampled)["encoder"]]))


def spaces_of_image_set(wildcards):
    """Protocol and encoder of every comparison of its evaluation."""
    return [
        (protocol, encoder) for encoder in encoders_of_image_set(wildcards) for protocol in config["evaluation"]["protocols"]
    ]


def features_of(images):
    """The features of an image set for every comparison of its evaluation."""

    def paths(wildcards):
        return [
            f"results/{wildcards.study}/features/{encoder}/{protocol}/{images.format(**wildcards)}.npy"
            for protocol, encoder in spaces_of_image_set(wildcards)
        ]

    return paths


def table_of(study, images):
    """Label and cluster of every image of a set; controls keep those of the real patches they come from."""
    return f"results/{study}/samples/{'real' if images in CONTROLS else images}.csv"


def table_of_image_set(wildcards):
    """Label and cluster of every image of the wildcards' set."""
    return table_of(wildcards.study, wildcards.sampled)


def of_ablation(files, also=()):
    """A file of every arm of the wildcards' ablation, and of the image sets it is read against."""
    return lambda wildcards: [
        files.format(study=wildcards.study, sampled=name) for name in (*also, *ablation_arms(config, wildcards.ablation))
    ]


def arms_of_ablation(wildcards):
    """What tells the arms of an ablation apart; nothing else of theirs, so that no other setting redraws its table."""
    arms = ablation_arms(config, wildcards.ablation)
    titles, setting = arm_titles(config, arms), config["ablations"][wildcards.ablation]["varies"]
    return {
        name: {
            "title": titles.get(name, name),
            "value": varied_setting(config, name, setting),
            "prompts": arm_settings(config, name)["prompts"],
            **morphology_of(config, name),
        }
        for name in arms
    }


def images_to_classify(study, images):
    """An image set as classifiers see it: at its own size where that is below a patch's."""
    return native_file(study, images) if RESOLUTION < PATCH_SIZE else f"results/{study}/samples/{images}.h5"


def described_patches(wildcards):
    """The table that names for every image the training patch whose descriptors it should have."""
    if wildcards.sampled in OF_REAL_PATCHES:
        return table_of_image_set(wildcards)
    return f"results/{wildcards.study}/prompts/{wildcards.sampled}.generate.csv"


def prompts_name_descriptors(wildcards):
    """Are the descriptors of an image set asked for? Real and reconstructed images stand for a generator that heeds them."""
    return wildcards.sampled in OF_REAL_PATCHES or names_descriptors(arm_settings(config, wildcards.sampled)["prompts"])


def images_of_reader_study():
    """The image files from which a reader study is drawn."""
    return collect(
        "results/{{study}}/{file}.h5", file=["patches/test", *(f"samples/{arm}" for arm in config["reader_study"]["arms"])]
    )


def returned_answers(wildcards):
    """The answers that readers sent back."""
    try:
        return local(find_answers(config["reader_study"]["answers"]))  # the user's own: a module's prefix is not theirs
    except InputError as error:
        raise WorkflowError(str(error)) from None


def images_of_mix(wildcards):
    """The image sets a classifier is trained on: `real`, an arm, or both."""
    return [images_to_classify(wildcards.study, images) for images in wildcards.mix.split("+")]


def images_of_curve(wildcards):
    """The images that a learning curve adds to real patches; none for the curve of real patches alone."""
    return [] if wildcards.curve == "real" else [images_to_classify(wildcards.study, wildcards.curve)]


def finetuned_of_curves():
    """The arms of the learning curves whose generators learned from the study's patches."""
    return [arm for arm in CURVES if arm != "real" and arm_settings(config, arm)["finetune"] is not None]


def begin():
    """Keep other runs off this study while this one is at work."""
    try:
        hold_lock(Path(STUDY_FOLDER, ".lock"))
    except InputError as error:
        raise WorkflowError(str(error)) from None


def finetuned_models():
    """The arms whose fine-tuned models the study's arms sample."""
    settings = (arm_settings(config, arm) for arm in ARMS)
    return list(dict.fromkeys(arm["model"] for arm in settings if arm["finetune"] is not None))


def model_of(entry):
    """A model of the study file, and what is in its folder; nothing for a hub id, which its revision pins."""
    model, revision = entry["model"], entry["revision"]
    return {"model": model, "revision": revision, "digest": model_digest(model) if Path(model).is_dir() else None}


def base_model(wildcards):
    """The model that fine-tuning begins from."""
    return model_of(config["generator"])


def shown_arms():
    """What the report says of every arm."""
    return {arm: arm_settings(config, arm) | {"title": config["arms"][arm].get("title")} for arm in ARMS}


def foundation_models(wildcards):
    """The models that a study begins from: what they are for, where they come from, and what is in their files."""
    clusters = dict.fromkeys(arm_settings(config, arm)["encoder"] for arm in ARMS)
    used = {encoder: ["morphology"] for encoder in [config["morphology"]["encoder"], *clusters]}
    for encoder in config["evaluation"]["encoders"]:
        used.setdefault(encoder, []).append("evaluation")
    entries = [("generator", "base of every arm", config["generator"])]
    entries += [(encoder, ", ".join(uses), config["encoders"][encoder]) for encoder, uses in used.items()]
    return [{"name": name, "use": use, "missing": MISSING_ENCODERS.get(name)} | model_of(entry) for name, use, entry in entries]


def made_on_request(wildcards):
    """The files of the report that other targets make, where they are there, and when they were made."""
    # Of a parameter computed from `output` Snakemake would not notice a change.
    return files_on_request(STUDY_FOLDER, STUDY, config["ablations"])


def wishes_of_request(wildcards):
    """The user's own prompts, where a request for more images names them; none where it is a number of images."""
    return [] if images_of_request(wildcards.request) is not None else local(f"config/more/{wildcards.request}.csv")


def seed_of_more_images(wildcards):
    """Of the noise of images beyond the study's own, which no image of the study begins from."""
    return seed_of_request(arm_settings(config, wildcards.arm)["image_seed"], wildcards.request)


def closing_words():
    """What was found, what was made and where it is, once everything asked for is there."""
    folder = Path(STUDY_FOLDER)
    summary = folder / "summary.md"
    tables = summary.read_text().partition("\n- **Reference**")[0] if summary.exists() else ""
    places = {
        "report.html": "the report: everything on one page, for a browser",
        "explorer/index.html": "the images, one by one",
        "reader_study/page/index.html": "the page to send to readers",
        "samples/*/dataset/README.md": "the synthetic images of every arm, with their cards",
        "models/*/README.md": "the fine-tuned models, with their cards",
    }
    there = [f"  {folder / file!s:{len(STUDY) + 40}}{what}" for file, what in places.items() if any(folder.glob(file))]
    meaningful = [arm for arm in ARMS if config["arms"][arm]["prompts"] != "shuffled"] or ARMS
    lines = [
        tables,
        f"Done. Results: {folder}/; what each file is: docs/architecture.md.",
        *there,
        "On request: snakemake --cores all coverage_map (or learning_curve, replicate, ablations), and the next run reports it.",
        f"More images: snakemake --cores all {folder}/more/{meaningful[-1]}/500/dataset/README.md",
    ]
    return "\n".join(lines)


def words_of_dry_run():
    """What a dry run ends with where models would be trained or sampled: what the study will cost, or how to know."""
    if not workflow.is_main_process or not workflow.dryrun:
        return
    planned = {job.rule.name for job in workflow.dag.jobs if workflow.dag.needrun(job)}
    if planned & {"finetune_diffusion", "generate_images"}:
        estimate = Path(STUDY_FOLDER, "cost.md")
        files, entries = map(os.path.relpath, workflow.overwrite_configfiles), workflow.config_settings.config_args or []
        options = [("--configfile", *files), ("--config", *entries)]
        command = " ".join(["snakemake --cores 1 estimate", *(shlex.join(option) for option in options if len(option) > 1)])
        if estimate.is_file():
            print(f"{estimate.read_text().splitlines()[2]} Estimated on {time_of(estimate)}; again: {command}")
        else:
            print(f"What the whole study will cost, in hours of a GPU and in disk: {command}")


def time_of(file):
    """When a file was written, to the minute."""
    return datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def how_to_go_on(log):
    """What to do after a failure."""
    return (
        "\nNot finished. Whatever was made is kept, and long jobs go on where they stopped: put right what the message above names, "
        f"then run the same command again.\nThe whole log: {log}"
    )
