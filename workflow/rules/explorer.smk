localrules:
    make_explorer,


rule make_explorer:
    input:
        images=collect("results/{{study}}/samples/{sampled}.h5", sampled=["real", *ARMS]),
        tables=collect("results/{{study}}/samples/{sampled}.csv", sampled=["real", *ARMS]),
        features=collect(
            "results/{{study}}/embeddings/{encoder}/{sampled}.npy",
            encoder=config["morphology"]["encoder"],
            sampled=["real", *ARMS],
        ),
        nearest=collect("results/{{study}}/copies/{arm}.csv", arm=ARMS),
        reports=collect("results/{{study}}/copies/{arm}.json", arm=ARMS),
        centroids=of_clustering("{study}", config["morphology"], "centroids.npy"),
        assignments=of_clustering("{study}", config["morphology"], "train.csv"),
        patches="results/{study}/patches/train.h5",
        map="results/{study}/coverage_map.csv",
    output:
        page="results/{study}/explorer/index.html",
        sheets=directory("results/{study}/explorer/sheets"),
    log:
        "results/{study}/logs/make_explorer.log",
    benchmark:
        "results/{study}/benchmarks/make_explorer.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=60,
    params:
        names=["real", *ARMS],
        arms=ARMS,
        titles=TITLES,
        naming=arms_that_name_clusters(),
        own_clusters=clusters_of_arms_own(),
        encoder=config["morphology"]["encoder"],
        seed=config["seed"],
        # No import leads to the page's own sources.
        sources=[model_digest(SCRIPTS / "histoprompt" / part) for part in ("page", "explorer/page")],
        code=code_digest("make_explorer"),
    script:
        "../scripts/make_explorer.py"
