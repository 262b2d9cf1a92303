localrules:
    check_reader_study,
    make_reader_study,
    simulate_readers,
    analyse_reader_study,
    analyse_simulated_readers,


READER_STUDY = config["reader_study"]


# Early, since what is wrong here would otherwise be said after all training.
rule check_reader_study:
    input:
        test="results/{study}/patches/test.h5",
        clusters=of_clustering("{study}", config["morphology"], "test.csv"),
    output:
        "results/{study}/reader_study/needed.csv",
    log:
        "results/{study}/logs/check_reader_study.log",
    benchmark:
        "results/{study}/benchmarks/check_reader_study.tsv"
    priority: 3
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        seed=config["seed"],
        arms=READER_STUDY["arms"],
        images=READER_STUDY["images"],
        blocks=READER_STUDY["blocks"],
        training=READER_STUDY["training"],
        code=code_digest("check_reader_study"),
    script:
        "../scripts/check_reader_study.py"


rule make_reader_study:
    input:
        checked="results/{study}/reader_study/needed.csv",
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
        page=report(
            "results/{study}/reader_study/page/index.html",
            caption="../report/reader_page.rst",
            category="Reader study",
            labels={"figure": "the page that readers get", "readers": "people"},
        ),
        key="results/{study}/reader_study/key.json",
    log:
        "results/{study}/logs/make_reader_study.log",
    benchmark:
        "results/{study}/benchmarks/make_reader_study.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
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
        sources=[model_digest(SCRIPTS / "histoprompt" / part) for part in ("page", "reader_study/page")],
        code=code_digest("make_reader_study"),
    script:
        "../scripts/make_reader_study.py"


rule simulate_readers:
    input:
        key="results/{study}/reader_study/key.json",
    output:
        collect("results/{{study}}/reader_study/simulated/{reader}.csv", reader=simulated_readers(2)),
    log:
        "results/{study}/logs/simulate_readers.log",
    benchmark:
        "results/{study}/benchmarks/simulate_readers.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        readers=simulated_readers(2),
        seed=config["seed"],
        diagnosis=READER_STUDY["diagnosis"],
        code=code_digest("simulate_readers"),
    script:
        "../scripts/simulate_readers.py"


rule analyse_reader_study:
    input:
        key="results/{study}/reader_study/key.json",
        answers=returned_answers,
        images=images_of_reader_study(),
    output:
        report="results/{study}/reader_study/analysis.json",
        text="results/{study}/reader_study/analysis.md",
        readers="results/{study}/reader_study/readers.csv",
        kappa=report(
            "results/{study}/reader_study/figures/kappa.png",
            caption="../report/reader_kappa.rst",
            category="Reader study",
            labels={"figure": "agreement of every pair of readers", "readers": "people"},
        ),
        forest=report(
            "results/{study}/reader_study/figures/readers.png",
            caption="../report/readers.rst",
            category="Reader study",
            labels={"figure": "sensitivity and specificity of every reader", "readers": "people"},
        ),
        patches=report(
            "results/{study}/reader_study/figures/patches.png",
            caption="../report/reader_patches.rst",
            category="Reader study",
            labels={"figure": "patches taken for real and for synthetic", "readers": "people"},
        ),
    log:
        "results/{study}/logs/analyse_reader_study.log",
    benchmark:
        "results/{study}/benchmarks/analyse_reader_study.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        folder=subpath(input.key, ancestor=2),
        simulated=False,
        margin=READER_STUDY["margin"],
        draws=1000,
        seed=config["seed"],
        code=code_digest("analyse_reader_study"),
    script:
        "../scripts/analyse_reader_study.py"


use rule analyse_reader_study as analyse_simulated_readers with:
    input:
        key="results/{study}/reader_study/key.json",
        answers=rules.simulate_readers.output,
        images=images_of_reader_study(),
    output:
        report="results/{study}/reader_study/simulated_analysis/analysis.json",
        text="results/{study}/reader_study/simulated_analysis/analysis.md",
        readers="results/{study}/reader_study/simulated_analysis/readers.csv",
        kappa=report(
            "results/{study}/reader_study/simulated_analysis/figures/kappa.png",
            caption="../report/reader_kappa.rst",
            category="Reader study",
            labels={"figure": "agreement of every pair of readers", "readers": "SIMULATED"},
        ),
        forest=report(
            "results/{study}/reader_study/simulated_analysis/figures/readers.png",
            caption="../report/readers.rst",
            category="Reader study",
            labels={"figure": "sensitivity and specificity of every reader", "readers": "SIMULATED"},
        ),
        patches=report(
            "results/{study}/reader_study/simulated_analysis/figures/patches.png",
            caption="../report/reader_patches.rst",
            category="Reader study",
            labels={"figure": "patches taken for real and for synthetic", "readers": "SIMULATED"},
        ),
    log:
        "results/{study}/logs/analyse_simulated_readers.log",
    benchmark:
        "results/{study}/benchmarks/analyse_simulated_readers.tsv"
    params:
        folder=subpath(input.key, ancestor=2),
        simulated=True,
        margin=READER_STUDY["margin"],
        draws=1000,
        seed=config["seed"],
        code=code_digest("analyse_reader_study"),


# Without wildcards, so that `snakemake plan_reader_study` is enough.
rule plan_reader_study:
    output:
        table=f"results/{STUDY}/reader_study/power.csv",
        text=f"results/{STUDY}/reader_study/power.md",
    log:
        f"results/{STUDY}/logs/plan_reader_study.log",
    benchmark:
        f"results/{STUDY}/benchmarks/plan_reader_study.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=60,
    params:
        readers=[3, 5, 8, 12, 20],
        images=[40, 80, 120, 200],
        margin=READER_STUDY["margin"],
        studies=400,
        draws=200,
        seed=config["seed"],
        code=code_digest("plan_reader_study"),
    script:
        "../scripts/plan_reader_study.py"
