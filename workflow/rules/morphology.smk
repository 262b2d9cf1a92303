localrules:
    balance_subset,
    bin_descriptors,
    build_prompts,
    draw_real,
    draw_atlas,


rule embed_images:
    input:
        file_of_images,
    output:
        temp("results/{study}/embeddings/{encoder}/{images}/{scatteritem}.npy"),
    log:
        "results/{study}/logs/embed_images/{encoder}/{images}/{scatteritem}.log",
    benchmark:
        "results/{study}/benchmarks/embed_images/{encoder}/{images}/{scatteritem}.tsv"
    wildcard_constraints:
        images="train|valid",  # those of all others come with their features: extract_features
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=4000,
        runtime=240,
    params:
        kind=of_encoder("kind"),
        model=of_encoder("model"),
        revision=of_encoder("revision"),
        batch_size=of_encoder("batch_size"),
        dtype=of_encoder("dtype"),
        device=config["device"],
        shard=shard,
        content=encoder_digest,
        code=code_digest("embed_images"),
    script:
        "../scripts/embed_images.py"


rule gather_embeddings:
    input:
        gather.patches("results/{{study}}/embeddings/{{encoder}}/{{images}}/{scatteritem}.npy"),
    output:
        "results/{study}/embeddings/{encoder}/{images}.npy",
    log:
        "results/{study}/logs/gather_embeddings/{encoder}/{images}.log",
    benchmark:
        "results/{study}/benchmarks/gather_embeddings/{encoder}/{images}.tsv"
    wildcard_constraints:
        images="train|valid",
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=60,
    params:
        code=code_digest("gather_embeddings"),
    script:
        "../scripts/gather_embeddings.py"


rule cluster_embeddings:
    input:
        embeddings=collect("results/{{study}}/embeddings/{{encoder}}/{split}.npy", split=SPLITS),
        kept=collect("results/{{study}}/patches/{split}.kept.csv", split=SPLITS),
        tables=collect("results/{{study}}/patches/{split}.csv", split=SPLITS),
    output:
        centroids="results/{study}/clusters/{encoder}/k{k}/centroids.npy",
        assignments=collect("results/{{study}}/clusters/{{encoder}}/k{{k}}/{split}.csv", split=SPLITS),
        quality="results/{study}/clusters/{encoder}/k{k}/quality.json",
    log:
        "results/{study}/logs/cluster_embeddings/{encoder}/k{k}.log",
    benchmark:
        "results/{study}/benchmarks/cluster_embeddings/{encoder}/k{k}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(8000),
        runtime=120,
    params:
        k=number_of_clusters,
        n_init=config["morphology"]["n_init"],
        seed=seed_of_clusters,
        code=code_digest("cluster_embeddings"),
    script:
        "../scripts/cluster_embeddings.py"


rule sweep_clusters:
    input:
        embeddings="results/{study}/embeddings/{encoder}/train.npy",
        kept="results/{study}/patches/train.kept.csv",
    output:
        table="results/{study}/clusters/{encoder}/sweep.csv",
        plot=report(
            "results/{study}/clusters/{encoder}/sweep.png",
            caption="../report/sweep.rst",
            category="Morphology",
            labels={"figure": "validity over k", "encoder": "{encoder}"},
        ),
    log:
        "results/{study}/logs/sweep_clusters/{encoder}.log",
    benchmark:
        "results/{study}/benchmarks/sweep_clusters/{encoder}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(8000),
        runtime=240,
    params:
        ks=config["morphology"]["sweep"],
        n_init=config["morphology"]["n_init"],
        silhouette_sample=config["morphology"]["silhouette_sample"],
        seed=config["seed"],
        code=code_digest("sweep_clusters"),
    script:
        "../scripts/sweep_clusters.py"


rule draw_atlas:
    input:
        patches="results/{study}/patches/train.h5",
        assignments="results/{study}/clusters/{encoder}/k{k}/train.csv",
    output:
        report(
            "results/{study}/clusters/{encoder}/k{k}/atlas.png",
            caption="../report/atlas.rst",
            category="Morphology",
            labels={"figure": "cluster atlas", "encoder": "{encoder}"},
        ),
    log:
        "results/{study}/logs/draw_atlas/{encoder}/k{k}.log",
    benchmark:
        "results/{study}/benchmarks/draw_atlas/{encoder}/k{k}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        per_cluster=12,
        seed=config["seed"],
        code=code_digest("draw_atlas"),
    script:
        "../scripts/draw_atlas.py"


rule balance_subset:
    input:
        train="results/{study}/clusters/{encoder}/k{k}/train.csv",
        valid="results/{study}/clusters/{encoder}/k{k}/valid.csv",
    output:
        train="results/{study}/clusters/{encoder}/k{k}/subset.train.csv",
        valid="results/{study}/clusters/{encoder}/k{k}/subset.valid.csv",
    log:
        "results/{study}/logs/balance_subset/{encoder}/k{k}.log",
    benchmark:
        "results/{study}/benchmarks/balance_subset/{encoder}/k{k}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        train=config["subset"]["train"],
        valid=config["subset"]["valid"],
        min_prompts_per_label=config["subset"]["min_prompts_per_label"],
        seed=seed_of_clusters,
        code=code_digest("balance_subset"),
    script:
        "../scripts/balance_subset.py"


rule describe_images:
    input:
        file_of_images,
    output:
        "results/{study}/descriptors/{images}.csv",
    log:
        "results/{study}/logs/describe_images/{images}.log",
    benchmark:
        "results/{study}/benchmarks/describe_images/{images}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=240,
    params:
        code=code_digest("describe_images"),
    script:
        "../scripts/describe_images.py"


rule bin_descriptors:
    input:
        train="results/{study}/descriptors/train.csv",
        kept="results/{study}/patches/train.kept.csv",
    output:
        "results/{study}/descriptors.json",
    log:
        "results/{study}/logs/bin_descriptors.log",
    benchmark:
        "results/{study}/benchmarks/bin_descriptors.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=30,
    params:
        words=config["descriptors"],
        code=code_digest("bin_descriptors"),
    script:
        "../scripts/bin_descriptors.py"


rule build_prompts:
    input:
        patches="results/{study}/patches/train.h5",
        subset_train=clusters_of_arm("subset.train.csv"),
        subset_valid=clusters_of_arm("subset.valid.csv"),
        descriptors_train=where_prompts_name_descriptors("descriptors/train.csv"),
        descriptors_valid=where_prompts_name_descriptors("descriptors/valid.csv"),
        vocabulary=where_prompts_name_descriptors("descriptors.json"),
    output:
        train="results/{study}/prompts/{arm}.train.csv",
        valid="results/{study}/prompts/{arm}.valid.csv",
        generate="results/{study}/prompts/{arm}.generate.csv",
    log:
        "results/{study}/logs/build_prompts/{arm}.log",
    benchmark:
        "results/{study}/benchmarks/build_prompts/{arm}.tsv"
    priority: 2  # the longest jobs wait for it
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        prompts=of_arm("prompts"),
        templates=template_of_arm,
        train=of_arm("train"),
        index=of_arm("index"),
        images=config["generator"]["sampling"]["images"],
        seed=of_arm("image_seed"),
        code=code_digest("build_prompts"),
    script:
        "../scripts/build_prompts.py"


rule draw_real:
    input:
        patches="results/{study}/patches/train.h5",
        subset="results/{{study}}/clusters/{encoder}/k{k}/subset.train.csv".format(**config["morphology"]),
    output:
        images="results/{study}/samples/real.h5",
        table="results/{study}/samples/real.csv",
    log:
        "results/{study}/logs/draw_real.log",
    benchmark:
        "results/{study}/benchmarks/draw_real.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        images=config["generator"]["sampling"]["images"],
        seed=config["seed"],
        code=code_digest("draw_real"),
    script:
        "../scripts/draw_real.py"
