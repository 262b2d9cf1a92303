localrules:
    make_reader_study,


READER_STUDY = config["reader_study"]


rule make_reader_study:
    input:
        test="results/{study}/patches/test.h5",
        clusters=of_clustering("{study}", config["morphology"], "test.csv"),
        centroids=of_clustering("{study}", config["morphology"], "centroids.npy"),
        samples=collect("results/{{study}}/samples/{arm}.h5", arm=READER_STUDY["arms"]),
        tables=collect("results/{{study}}/samples/{arm}.csv", arm=READER_STUDY["arms"]),
        features=collect(
            "results/{{study}}/embeddings/{encoder}/{arm}.npy",
            encoder=config["morphology"]["encoder"],
            arm=READER_STUDY["arms"],
        ),
    output:
        page="results/{study}/reader_study/page/index.html",
        key="results/{study}/reader_study/key.json",
    log:
        "results/{study}/logs/make_reader_study.log",
    benchmark:
        "results/{study}/benchmarks/make_reader_study.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        seed=config["seed"],
        arms=READER_STUDY["arms"],
        images=READER_STUDY["images"],
        blocks=READER_STUDY["blocks"],
        repeats=READER_STUDY["repeats"],
        training=READER_STUDY["training"],
        display=READER_STUDY["display"],
        size=READER_STUDY["size"],
        diagnosis=READER_STUDY["diagnosis"],
        # No import leads to the page's own sources.
        sources=model_digest(SCRIPTS / "histoprompt/reader_study/page"),
        code=code_digest("make_reader_study"),
    script:
        "../scripts/make_reader_study.py"
