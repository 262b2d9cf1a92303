localrules:
    compare_descriptors,


rule extract_features:
    input:
        images=file_of_images,
        native=native_file_of_images,
    output:
        # All at once, whatever the study reports: a protocol that is added later must not make the morphology's embeddings anew.
        embeddings=temp("results/{study}/embeddings/{encoder}/{images}/{scatteritem}.npy"),
        matched=temp("results/{study}/features/{encoder}/matched/{images}/{scatteritem}.npy"),
        paper=temp("results/{study}/features/{encoder}/paper/{images}/{scatteritem}.npy"),
    log:
        "results/{study}/logs/extract_features/{encoder}/{images}/{scatteritem}.log",
    benchmark:
        "results/{study}/benchmarks/extract_features/{encoder}/{images}/{scatteritem}.tsv"
    wildcard_constraints:
        images=f"test|real|resampled|vae|{ANY_ARM}",
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=4000,
        runtime=240,
    params:
        size=COMPARED_SIZE,
        kind=of_encoder("kind"),
        model=of_encoder("model"),
        revision=of_encoder("revision"),
        batch_size=of_encoder("batch_size"),
        dtype=of_encoder("dtype"),
        device=config["device"],
        shard=shard,
        content=encoder_digest,
        code=code_digest("extract_features"),
    script:
        "../scripts/extract_features.py"


rule gather_features:
    input:
        embeddings=shards_of("results/{study}/embeddings/{encoder}/{images}/{shard}.npy"),
        matched=shards_of("results/{study}/features/{encoder}/matched/{images}/{shard}.npy"),
        paper=shards_of("results/{study}/features/{encoder}/paper/{images}/{shard}.npy"),
    output:
        embeddings="results/{study}/embeddings/{encoder}/{images}.npy",
        matched="results/{study}/features/{encoder}/matched/{images}.npy",
        paper="results/{study}/features/{encoder}/paper/{images}.npy",
    log:
        "results/{study}/logs/gather_features/{encoder}/{images}.log",
    benchmark:
        "results/{study}/benchmarks/gather_features/{encoder}/{images}.tsv"
    wildcard_constraints:
        images=f"test|real|resampled|vae|{ANY_ARM}",
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=60,
    params:
        code=code_digest("gather_features"),
    script:
        "../scripts/gather_features.py"


rule compute_metrics:
    input:
        features=features_of("{sampled}"),
        reference=features_of("test"),
        embeddings=features_in_morphology_space("{sampled}"),
        reference_embeddings=features_in_morphology_space("test"),
        kept="results/{study}/patches/test.kept.csv",
        table=table_of_image_set,
        centroids=of_morphology("centroids.npy"),
    output:
        "results/{study}/metrics/{sampled}.json",
    log:
        "results/{study}/logs/compute_metrics/{sampled}.log",
    benchmark:
        "results/{study}/benchmarks/compute_metrics/{sampled}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(8000),
        runtime=240,
    params:
        spaces=spaces_of_image_set,
        kinds=kinds_of_encoders,
        missing=MISSING_ENCODERS,
        sizes={"patch": PATCH_SIZE, "generator": RESOLUTION},
        morphology_encoder=of_image_set("encoder"),
        neighbours=config["evaluation"]["neighbours"],
        subsamples=config["evaluation"]["subsamples"],
        seed=config["seed"],
        code=code_digest("compute_metrics"),
    script:
        "../scripts/compute_metrics.py"


rule find_copies:
    input:
        features=features_in_morphology_space("{sampled}"),
        table=table_of_image_set,
        images="results/{study}/samples/{sampled}.h5",
        train=features_in_morphology_space("train"),
        subset=trained_on,
        patches="results/{study}/patches/train.h5",
        held_out=features_in_morphology_space("test"),
        kept="results/{study}/patches/test.kept.csv",
    output:
        report="results/{study}/copies/{sampled}.json",
        nearest="results/{study}/copies/{sampled}.csv",
        pairs=report(
            "results/{study}/copies/{sampled}.png",
            caption="../report/copies.rst",
            category="Results",
            labels={"figure": "closest training patches", "images": "{sampled}"},
        ),
    log:
        "results/{study}/logs/find_copies/{sampled}.log",
    benchmark:
        "results/{study}/benchmarks/find_copies/{sampled}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=60,
    params:
        encoder=of_image_set("encoder"),
        pairs=10,
        code=code_digest("find_copies"),
    script:
        "../scripts/find_copies.py"


rule compare_descriptors:
    input:
        asked=described_patches,
        images="results/{study}/descriptors/{sampled}.csv",
        train="results/{study}/descriptors/train.csv",
        vocabulary="results/{study}/descriptors.json",
    output:
        "results/{study}/descriptors/{sampled}.json",
    log:
        "results/{study}/logs/compare_descriptors/{sampled}.log",
    benchmark:
        "results/{study}/benchmarks/compare_descriptors/{sampled}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=30,
    params:
        named=prompts_name_descriptors,
        code=code_digest("compare_descriptors"),
    script:
        "../scripts/compare_descriptors.py"


rule train_classifier:
    input:
        images=images_of_mix,
        test="results/{study}/patches/test.h5",
    output:
        "results/{study}/classifier/{mix}.json",
    log:
        "results/{study}/logs/train_classifier/{mix}.log",
    benchmark:
        "results/{study}/benchmarks/train_classifier/{mix}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=4000,
        runtime=480,
    params:
        size=COMPARED_SIZE,
        settings=CLASSIFIER,
        seeds=config["classifier"]["seeds"],
        device=config["device"],
        code=code_digest("train_classifier"),
    script:
        "../scripts/train_classifier.py"


# A job trains all points of a curve for one seed. On a CPU the imports of a job cost as much as one training of the demo's, so a
# job a point would double the work; a job a curve would leave cores idle and make a further seed train the others again.
rule train_learning_curve:
    input:
        patches="results/{study}/patches/train.h5",
        subset=of_clustering("{study}", config["morphology"], "subset.train.csv"),
        prompts=collect("results/{{study}}/prompts/{arm}.train.csv", arm=finetuned_of_curves()),
        images=images_of_curve,
        test="results/{study}/patches/test.h5",
    output:
        predictions="results/{study}/learning_curve/{curve}/{seed}.npy",
        report="results/{study}/learning_curve/{curve}/{seed}.json",
    log:
        "results/{study}/logs/train_learning_curve/{curve}/{seed}.log",
    benchmark:
        "results/{study}/benchmarks/train_learning_curve/{curve}/{seed}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=4000,
        runtime=1440,
    params:
        size=COMPARED_SIZE,
        real=config["learning_curve"]["real"],
        finetuned=finetuned_of_curves(),
        settings=CLASSIFIER,
        device=config["device"],
        code=code_digest("train_learning_curve"),
    script:
        "../scripts/train_learning_curve.py"
