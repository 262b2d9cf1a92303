# The embedded models; their recipe is a file of its own, config/foundation.yaml, since no study depends on how they were made.
from snakemake.common.configfile import load_configfile

FOUNDATION = load_configfile(ROOT / "config/foundation.yaml")
EVERYWHERE = {key: FOUNDATION[key] for key in ["seed", "device", "threads"]}


rule make_foundation_images:
    output:
        tissue="results/foundation/images/tissue.npy",
        table="results/foundation/images/tissue.csv",
        textures="results/foundation/images/textures.npy",
    log:
        "results/foundation/logs/make_foundation_images.log",
    benchmark:
        "results/foundation/benchmarks/make_foundation_images.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: FOUNDATION["workers"]
    resources:
        mem_mb=growing(4000),
        runtime=120,
    params:
        images=FOUNDATION["images"],
        seed=FOUNDATION["seed"],
        pcam_root=config.get("foundation", {"pcam_root": None})["pcam_root"],
        code=code_digest("make_foundation_images"),
    script:
        "../scripts/make_foundation_images.py"


rule train_autoencoder:
    input:
        tissue="results/foundation/images/tissue.npy",
        table="results/foundation/images/tissue.csv",
        textures="results/foundation/images/textures.npy",
    output:
        model=directory("results/foundation/vae"),
        report="results/foundation/vae.json",
    log:
        "results/foundation/logs/train_autoencoder.log",
    benchmark:
        "results/foundation/benchmarks/train_autoencoder.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: FOUNDATION["autoencoder"]["threads"]
    resources:
        gpu=gpus_for(FOUNDATION["device"]),
        mem_mb=6000,
        runtime=600,
    params:
        settings={**EVERYWHERE, **FOUNDATION["autoencoder"]},
        code=code_digest("train_autoencoder"),
    script:
        "../scripts/train_autoencoder.py"


rule train_vision_transformer:
    input:
        tissue="results/foundation/images/tissue.npy",
        table="results/foundation/images/tissue.csv",
    output:
        model=directory("results/foundation/dino-vit"),
        report="results/foundation/dino-vit.json",
    log:
        "results/foundation/logs/train_vision_transformer.log",
    benchmark:
        "results/foundation/benchmarks/train_vision_transformer.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: FOUNDATION["threads"]
    resources:
        gpu=gpus_for(FOUNDATION["device"]),
        mem_mb=6000,
        runtime=600,
    params:
        settings={**EVERYWHERE, **FOUNDATION["vision_transformer"]},
        code=code_digest("train_vision_transformer"),
    script:
        "../scripts/train_vision_transformer.py"


rule train_residual_network:
    input:
        tissue="results/foundation/images/tissue.npy",
        table="results/foundation/images/tissue.csv",
    output:
        model=directory("results/foundation/resnet"),
        report="results/foundation/resnet.json",
    log:
        "results/foundation/logs/train_residual_network.log",
    benchmark:
        "results/foundation/benchmarks/train_residual_network.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: FOUNDATION["threads"]
    resources:
        gpu=gpus_for(FOUNDATION["device"]),
        mem_mb=6000,
        runtime=600,
    params:
        settings={**EVERYWHERE, **FOUNDATION["residual_network"]},
        code=code_digest("train_residual_network"),
    script:
        "../scripts/train_residual_network.py"


rule pretrain_diffusion:
    input:
        tissue="results/foundation/images/tissue.npy",
        table="results/foundation/images/tissue.csv",
        vae="results/foundation/vae",
    output:
        model=directory("results/foundation/diffusion"),
        report="results/foundation/diffusion.json",
    log:
        "results/foundation/logs/pretrain_diffusion.log",
    benchmark:
        "results/foundation/benchmarks/pretrain_diffusion.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: FOUNDATION["threads"]
    resources:
        gpu=gpus_for(FOUNDATION["device"]),
        mem_mb=6000,
        runtime=600,
    params:
        settings={**EVERYWHERE, **FOUNDATION["diffusion"]},
        code=code_digest("pretrain_diffusion"),
    script:
        "../scripts/pretrain_diffusion.py"


rule assemble_foundation:
    input:
        table="results/foundation/images/tissue.csv",
        models=collect("results/foundation/{model}", model=["dino-vit", "resnet", "diffusion"]),
        reports=collect("results/foundation/{model}.json", model=["vae", "dino-vit", "resnet", "diffusion"]),
    output:
        folder=directory("results/foundation/models"),
    log:
        "results/foundation/logs/assemble_foundation.log",
    conda:
        "../../envs/histoprompt.yaml"
    params:
        recipe=FOUNDATION,
        code=code_digest("assemble_foundation"),
    script:
        "../scripts/assemble_foundation.py"
