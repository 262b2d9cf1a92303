localrules:
    export_dataset,


ENCODED = ["train", "valid"]


rule encode_latents:
    input:
        patches=collect("results/{{study}}/patches/{split}.h5", split=ENCODED),
        subsets=collect("results/{{study}}/clusters/{{encoder}}/k{{k}}/subset.{split}.csv", split=ENCODED),
    output:
        latents=temp(collect("results/{{study}}/latents/{{encoder}}/k{{k}}/{split}/{{scatteritem}}.npy", split=ENCODED)),
        rows=temp(collect("results/{{study}}/latents/{{encoder}}/k{{k}}/{split}/{{scatteritem}}.rows.csv", split=ENCODED)),
    log:
        "results/{study}/logs/encode_latents/{encoder}/k{k}/{scatteritem}.log",
    benchmark:
        "results/{study}/benchmarks/encode_latents/{encoder}/k{k}/{scatteritem}.tsv"
    priority: 2  # the longest jobs wait for it
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=4000,
        runtime=480,
    params:
        model=config["generator"]["model"],
        revision=config["generator"]["revision"],
        resolution=config["generator"]["resolution"],
        flip=config["generator"]["finetune"]["flip"],
        batch_size=config["generator"]["encode_batch_size"],
        device=config["device"],
        shard=shard,
        content=generator_digest,
        code=code_digest("encode_latents"),
    script:
        "../scripts/encode_latents.py"


rule gather_latents:
    input:
        latents=gather.patches("results/{{study}}/latents/{{encoder}}/k{{k}}/{{split}}/{scatteritem}.npy"),
        rows=gather.patches("results/{{study}}/latents/{{encoder}}/k{{k}}/{{split}}/{scatteritem}.rows.csv"),
    output:
        latents="results/{study}/latents/{encoder}/k{k}/{split}.npy",
        rows="results/{study}/latents/{encoder}/k{k}/{split}.rows.csv",
    log:
        "results/{study}/logs/gather_latents/{encoder}/k{k}/{split}.log",
    benchmark:
        "results/{study}/benchmarks/gather_latents/{encoder}/k{k}/{split}.tsv"
    priority: 2  # the longest jobs wait for it
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=60,
    params:
        code=code_digest("gather_latents"),
    script:
        "../scripts/gather_latents.py"


rule reconstruct_patches:
    input:
        "results/{study}/samples/real.h5",
    output:
        images="results/{study}/samples/vae.h5",
        native=[] if PATCH_SIZE == RESOLUTION else "results/{study}/samples/vae.native.h5",
        report="results/{study}/samples/vae.json",
    log:
        "results/{study}/logs/reconstruct_patches.log",
    benchmark:
        "results/{study}/benchmarks/reconstruct_patches.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=4000,
        runtime=240,
    params:
        model=config["generator"]["model"],
        revision=config["generator"]["revision"],
        resolution=config["generator"]["resolution"],
        batch_size=config["generator"]["encode_batch_size"],
        device=config["device"],
        content=generator_digest,
        code=code_digest("reconstruct_patches"),
    script:
        "../scripts/reconstruct_patches.py"


rule resample_patches:
    input:
        "results/{study}/samples/real.h5",
    output:
        images="results/{study}/samples/resampled.h5",
        native="results/{study}/samples/resampled.native.h5",
    log:
        "results/{study}/logs/resample_patches.log",
    benchmark:
        "results/{study}/benchmarks/resample_patches.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(2000),
        runtime=60,
    params:
        resolution=config["generator"]["resolution"],
        batch_size=config["generator"]["encode_batch_size"],
        code=code_digest("resample_patches"),
    script:
        "../scripts/resample_patches.py"


rule finetune_diffusion:
    input:
        train="results/{study}/prompts/{arm}.train.csv",
        valid="results/{study}/prompts/{arm}.valid.csv",
        latents_train=latents_of_arm("train.npy"),
        rows_train=latents_of_arm("train.rows.csv"),
        latents_valid=latents_of_arm("valid.npy"),
        rows_valid=latents_of_arm("valid.rows.csv"),
    output:
        manifest="results/{study}/models/{arm}/manifest.json",
        history="results/{study}/models/{arm}/history.csv",
        grid=report(
            "results/{study}/models/{arm}/training.png",
            caption="../report/training.rst",
            category="Training",
            labels={"figure": "samples over training", "arm": "{arm}"},
        ),
        timing="results/{study}/models/{arm}/timing.json",
    log:
        "results/{study}/logs/finetune_diffusion/{arm}.log",
    benchmark:
        "results/{study}/benchmarks/finetune_diffusion/{arm}.tsv"
    # The longest jobs first: the many short ones then fill what is left of the cores, and nobody waits for a last long one.
    priority: 2
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        # A process for every GPU, on one node or several: raise both here, with --set-resources or in the profile.
        gpu=GPUS,
        nodes=1,
        mem_mb=8000,
        runtime=2880,
    params:
        model=config["generator"]["model"],
        revision=config["generator"]["revision"],
        settings=of_arm("finetune"),
        seed=of_arm("seed"),
        # Not an output: Snakemake would delete it when a job fails, and with it what the next attempt goes on from.
        state=of_model("state/finetune"),
        board=of_model("tensorboard"),
        device=config["device"],
        content=generator_digest,
        code=code_digest("finetune_diffusion"),
    script:
        "../scripts/finetune_diffusion.py"


rule generate_images:
    input:
        prompts="results/{study}/prompts/{arm}.generate.csv",
        model=finetuned_model,
    output:
        manifest="results/{study}/samples/{arm}/{scatteritem}/manifest.csv",
        timing="results/{study}/samples/{arm}/{scatteritem}/timing.json",
    log:
        "results/{study}/logs/generate_images/{arm}/{scatteritem}.log",
    benchmark:
        "results/{study}/benchmarks/generate_images/{arm}/{scatteritem}.tsv"
    priority: 1
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=6000,
        runtime=1440,
    params:
        model=config["generator"]["model"],
        revision=config["generator"]["revision"],
        resolution=config["generator"]["resolution"],
        settings=of_arm("sampling"),
        seed=of_arm("image_seed"),
        shard=shard,
        device=config["device"],
        content=generator_digest,
        code=code_digest("generate_images"),
    script:
        "../scripts/generate_images.py"


rule export_dataset:
    input:
        shards=gather.images("results/{{study}}/samples/{{arm}}/{scatteritem}/manifest.csv"),
        patches="results/{study}/patches/train.h5",
    output:
        images="results/{study}/samples/{arm}.h5",
        table="results/{study}/samples/{arm}.csv",
        metadata="results/{study}/samples/{arm}/dataset/metadata.csv",
    log:
        "results/{study}/logs/export_dataset/{arm}.log",
    benchmark:
        "results/{study}/benchmarks/export_dataset/{arm}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=120,
    params:
        patch_size=config["data"]["patch_size"],
        code=code_digest("export_dataset"),
    script:
        "../scripts/export_dataset.py"
