localrules:
    estimate_cost,
    draw_arms,
    draw_coverage,
    draw_reliability,
    summarise_study,
    summarise_ablation,
    summarise_learning_curve,
    summarise_replicates,
    summarise_descriptors,
    write_cards,
    write_report,


MAP = config["evaluation"]["map"]


rule draw_arms:
    input:
        images=collect("results/{{study}}/samples/{sampled}.h5", sampled=["real", *ARMS]),
        tables=collect("results/{{study}}/samples/{sampled}.csv", sampled=["real", *ARMS]),
    output:
        report(
            "results/{study}/figures/arms.png",
            caption="../report/arms.rst",
            category="Results",
            labels={"figure": "images of every arm"},
        ),
    log:
        "results/{study}/logs/draw_arms.log",
    benchmark:
        "results/{study}/benchmarks/draw_arms.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        names=["real", *ARMS],
        titles=TITLES,
        columns=16,
        code=code_digest("draw_arms"),
    script:
        "../scripts/draw_arms.py"


rule draw_coverage:
    input:
        metrics=collect("results/{{study}}/metrics/{sampled}.json", sampled=judged_by_the_studys_clusters()),
        patches="results/{study}/patches/test.h5",
        assignments="results/{{study}}/clusters/{encoder}/k{k}/test.csv".format(**config["morphology"]),
    output:
        table="results/{study}/coverage.csv",
        figure=report(
            "results/{study}/figures/coverage.png",
            caption="../report/coverage.rst",
            category="Results",
            labels={"figure": "coverage of every cluster"},
        ),
    log:
        "results/{study}/logs/draw_coverage.log",
    benchmark:
        "results/{study}/benchmarks/draw_coverage.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        code=code_digest("draw_coverage"),
    script:
        "../scripts/draw_coverage.py"


rule draw_coverage_map:
    input:
        features=collect("results/{{study}}/embeddings/{encoder}/{sampled}.npy", encoder=MAP["encoder"], sampled=IMAGE_SETS),
        tables=[table_of("{study}", images) for images in IMAGE_SETS],
        images=collect("results/{{study}}/samples/{sampled}.h5", sampled=IMAGE_SETS),
        held_out="results/{{study}}/embeddings/{encoder}/test.npy".format(**MAP),
        assignments="results/{{study}}/clusters/{encoder}/k{k}/test.csv".format(**config["morphology"]),
        patches="results/{study}/patches/test.h5",
    output:
        table="results/{study}/coverage_map.csv",
        regions="results/{study}/regions.csv",
        figure=report(
            "results/{study}/figures/coverage_map.png",
            caption="../report/coverage_map.rst",
            category="Results",
            labels={"figure": "map of real and synthetic images"},
        ),
        examples=report(
            "results/{study}/figures/regions.png",
            caption="../report/regions.rst",
            category="Results",
            labels={"figure": "regions of real tissue that arms miss"},
        ),
    log:
        "results/{study}/logs/draw_coverage_map.log",
    benchmark:
        "results/{study}/benchmarks/draw_coverage_map.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(8000),
        runtime=120,
    params:
        names=IMAGE_SETS,
        map=MAP,
        coverage_neighbours=config["evaluation"]["neighbours"],
        seed=config["seed"],
        code=code_digest("draw_coverage_map"),
    script:
        "../scripts/draw_coverage_map.py"


rule draw_reliability:
    input:
        collect("results/{{study}}/classifier/{mix}.json", mix=["real", *mixes_with(ARMS)]),
    output:
        table="results/{study}/calibration.csv",
        figure=report(
            "results/{study}/figures/reliability.png",
            caption="../report/reliability.rst",
            category="Results",
            labels={"figure": "calibration of the classifiers"},
        ),
    log:
        "results/{study}/logs/draw_reliability.log",
    benchmark:
        "results/{study}/benchmarks/draw_reliability.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        titles=TITLES,
        code=code_digest("draw_reliability"),
    script:
        "../scripts/draw_reliability.py"


rule summarise_study:
    input:
        metrics=collect("results/{{study}}/metrics/{sampled}.json", sampled=IMAGE_SETS),
        classifiers=collect("results/{{study}}/classifier/{mix}.json", mix=["real", *mixes_with(ARMS)]),
        copies=collect("results/{{study}}/copies/{sampled}.json", sampled=IMAGE_SETS),
    output:
        table=report(
            "results/{study}/summary.csv",
            caption="../report/summary.rst",
            category="Results",
            labels={"figure": "summary table"},
        ),
        text="results/{study}/summary.md",
    log:
        "results/{study}/logs/summarise_study.log",
    benchmark:
        "results/{study}/benchmarks/summarise_study.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        titles=TITLES,
        code=code_digest("summarise_study"),
    script:
        "../scripts/summarise_study.py"


rule summarise_descriptors:
    input:
        collect("results/{{study}}/descriptors/{sampled}.json", sampled=compared_by_descriptors()),
    output:
        table=report(
            "results/{study}/descriptors.csv",
            caption="../report/descriptors.rst",
            category="Results",
            labels={"figure": "descriptors"},
        ),
        text="results/{study}/descriptors.md",
    log:
        "results/{study}/logs/summarise_descriptors.log",
    benchmark:
        "results/{study}/benchmarks/summarise_descriptors.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        titles=TITLES,
        code=code_digest("summarise_descriptors"),
    script:
        "../scripts/summarise_descriptors.py"


REPLICATES = collect("{arm}-seed{seed}", arm=config["replicates"]["arms"], seed=config["replicates"]["seeds"])


rule summarise_replicates:
    input:
        metrics=collect("results/{{study}}/metrics/{arm}.json", arm=REPLICATES),
        classifiers=collect("results/{{study}}/classifier/{mix}.json", mix=mixes_with(REPLICATES)),
    output:
        table=report(
            "results/{study}/replicates.csv",
            caption="../report/replicates.rst",
            category="Results",
            labels={"figure": "every replicate"},
        ),
        text="results/{study}/replicates.md",
    log:
        "results/{study}/logs/summarise_replicates.log",
    benchmark:
        "results/{study}/benchmarks/summarise_replicates.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        arms=config["replicates"]["arms"],
        seeds=config["replicates"]["seeds"],
        recluster=config["replicates"]["recluster"],
        code=code_digest("summarise_replicates"),
    script:
        "../scripts/summarise_replicates.py"


rule summarise_ablation:
    input:
        metrics=of_ablation("results/{study}/metrics/{sampled}.json", also=OF_REAL_PATCHES),
        copies=of_ablation("results/{study}/copies/{sampled}.json"),
    output:
        table="results/{study}/ablations/{ablation}.csv",
        text="results/{study}/ablations/{ablation}.md",
        figure=report(
            "results/{study}/ablations/{ablation}.png",
            caption="../report/ablation.rst",
            category="Ablations",
            labels={"figure": "{ablation}"},
        ),
    log:
        "results/{study}/logs/summarise_ablation/{ablation}.log",
    benchmark:
        "results/{study}/benchmarks/summarise_ablation/{ablation}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        title=lookup(dpath="ablations/{ablation}/title", within=config),
        varies=lookup(dpath="ablations/{ablation}/varies", within=config),
        arms=arms_of_ablation,
        code=code_digest("summarise_ablation"),
    script:
        "../scripts/summarise_ablation.py"


rule summarise_learning_curve:
    input:
        reports=collect(
            "results/{{study}}/learning_curve/{curve}/{seed}.json", curve=CURVES, seed=config["learning_curve"]["seeds"]
        ),
        predictions=collect(
            "results/{{study}}/learning_curve/{curve}/{seed}.npy", curve=CURVES, seed=config["learning_curve"]["seeds"]
        ),
        test="results/{study}/patches/test.h5",
    output:
        table="results/{study}/learning_curve.csv",
        text="results/{study}/learning_curve.md",
        figure=report(
            "results/{study}/figures/learning_curve.png",
            caption="../report/learning_curve.rst",
            category="Results",
            labels={"figure": "learning curves"},
        ),
    log:
        "results/{study}/logs/summarise_learning_curve.log",
    benchmark:
        "results/{study}/benchmarks/summarise_learning_curve.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        titles=TITLES,
        code=code_digest("summarise_learning_curve"),
    script:
        "../scripts/summarise_learning_curve.py"


rule estimate_cost:
    output:
        "results/{study}/cost.md",
    log:
        "results/{study}/logs/estimate_cost.log",
    benchmark:
        "results/{study}/benchmarks/estimate_cost.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=30,
    params:
        model=config["generator"]["model"],
        revision=config["generator"]["revision"],
        resolution=RESOLUTION,
        patch_size=PATCH_SIZE,
        encoders={name: config["encoders"][name] for name in encoders_of_study()},
        arms={arm: {key: arm_settings(config, arm)[key] for key in ("finetune", "sampling")} for arm in ARMS},
        train=config["subset"]["train"],
        valid=config["subset"]["valid"],
        sets=len(OF_REAL_PATCHES),
        code=code_digest("estimate_cost"),
    script:
        "../scripts/estimate_cost.py"


rule write_cards:
    input:
        manifests=collect("results/{{study}}/models/{arm}/manifest.json", arm=finetuned_models()),
        prompts=collect("results/{{study}}/prompts/{arm}.train.csv", arm=finetuned_models()),
        datasets=collect("results/{{study}}/samples/{arm}/dataset/metadata.csv", arm=ARMS),
        metrics=collect("results/{{study}}/metrics/{sampled}.json", sampled=["real", *ARMS]),
        classifiers=collect("results/{{study}}/classifier/{mix}.json", mix=["real", *mixes_with(ARMS)]),
        copies=collect("results/{{study}}/copies/{sampled}.json", sampled=["real", *ARMS]),
    output:
        models=collect("results/{{study}}/models/{arm}/README.md", arm=finetuned_models()),
        datasets=collect("results/{{study}}/samples/{arm}/dataset/README.md", arm=ARMS),
    log:
        "results/{study}/logs/write_cards.log",
    benchmark:
        "results/{study}/benchmarks/write_cards.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        folder=STUDY_FOLDER,
        models=finetuned_models(),
        source=config["data"]["source"],
        sizes={"patch": PATCH_SIZE, "generator": RESOLUTION},
        generator=base_model,
        arms={arm: arm_settings(config, arm) for arm in ARMS},
        images=["real", *ARMS],
        mixes=["real", *mixes_with(ARMS)],
        # No import leads to the cards' own texts.
        sources=model_digest(SCRIPTS / "histoprompt/hub_cards/templates"),
        code=code_digest("write_cards"),
    script:
        "../scripts/write_cards.py"


rule write_report:
    input:
        dropped=collect("results/{{study}}/patches/{split}.dropped.csv", split=SPLITS),
        morphology=collect(
            "results/{{study}}/clusters/{encoder}/{file}",
            encoder=config["morphology"]["encoder"],
            file=[
                "sweep.png",
                "k{k}/atlas.png".format(**config["morphology"]),
                "k{k}/quality.json".format(**config["morphology"]),
            ],
        ),
        prompts=collect("results/{{study}}/prompts/{arm}.generate.csv", arm=ARMS),
        models=collect(
            "results/{{study}}/models/{arm}/{file}",
            arm=finetuned_models(),
            file=["manifest.json", "history.csv", "training.png", "timing.json"],
        ),
        vae="results/{study}/samples/vae.json",
        samples=collect("results/{{study}}/samples/{arm}.csv", arm=ARMS),
        metrics=collect("results/{{study}}/metrics/{sampled}.json", sampled=IMAGE_SETS),
        classifiers=collect("results/{{study}}/classifier/{mix}.json", mix=["real", *mixes_with(ARMS)]),
        copies=collect("results/{{study}}/copies/{sampled}.{form}", sampled=IMAGE_SETS, form=["json", "png"]),
        figures=collect("results/{{study}}/figures/{figure}.png", figure=["arms", "coverage", "reliability"]),
        descriptors=collect("results/{{study}}/{file}", file=table_of_descriptors(config["arms"])),
        readers=collect(
            "results/{{study}}/{folder}/{file}",
            folder=Path(analysis_of_readers()).parent.as_posix(),
            file=["analysis.md", "figures/kappa.png", "figures/readers.png", "figures/patches.png"],
        ),
    output:
        page=report(
            "results/{study}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"figure": "the whole study on one page"},
        ),
        losses=report(
            "results/{study}/figures/losses.png",
            caption="../report/losses.rst",
            category="Training",
            labels={"figure": "losses", "arm": "all"},
        ),
    log:
        "results/{study}/logs/write_report.log",
    benchmark:
        "results/{study}/benchmarks/write_report.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=30,
    params:
        folder=STUDY_FOLDER,
        seed=config["seed"],
        source=config["data"]["source"],
        sizes={"patch": PATCH_SIZE, "generator": RESOLUTION},
        morphology={key: config["morphology"][key] for key in ("encoder", "k")},
        arms=shown_arms(),
        images=IMAGE_SETS,
        mixes=["real", *mixes_with(ARMS)],
        models=foundation_models,
        ablations={name: ablation["title"] for name, ablation in config["ablations"].items()},
        readers="simulated_analysis" if config["reader_study"]["answers"] is None else "",
        descriptors=bool(table_of_descriptors(config["arms"])),
        # When what is made on request comes or changes, the page is written again; it is no input, or the page would make it.
        on_request=made_on_request,
        # No import leads to the page's own sources.
        sources=model_digest(SCRIPTS / "histoprompt/report/page"),
        code=code_digest("write_report"),
    script:
        "../scripts/write_report.py"
