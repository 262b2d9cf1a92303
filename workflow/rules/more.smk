# More images of a finished study:
#     snakemake --cores all results/demo/more/morphology/500/dataset/README.md
# are 500 of arm morphology, balanced over classes and morphologies (500-b: 500 others); a name that is no number is that of a file
# of prompts, config/more/{request}.csv.


localrules:
    plan_more_images,
    export_more_images,
    write_dataset_card,


rule plan_more_images:
    input:
        train="results/{study}/prompts/{arm}.train.csv",
        wishes=wishes_of_request,
        patches="results/{study}/patches/train.h5",
    output:
        "results/{study}/more/{arm}/{request}/prompts.csv",
    log:
        "results/{study}/logs/plan_more_images/{arm}/{request}.log",
    benchmark:
        "results/{study}/benchmarks/plan_more_images/{arm}/{request}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        code=code_digest("plan_more_images"),
    script:
        "../scripts/plan_more_images.py"


use rule generate_images as generate_more_images with:
    input:
        prompts="results/{study}/more/{arm}/{request}/prompts.csv",
        model=finetuned_model,
    output:
        manifest="results/{study}/more/{arm}/{request}/{scatteritem}/manifest.csv",
        timing="results/{study}/more/{arm}/{request}/{scatteritem}/timing.json",
    log:
        "results/{study}/logs/generate_more_images/{arm}/{request}/{scatteritem}.log",
    benchmark:
        "results/{study}/benchmarks/generate_more_images/{arm}/{request}/{scatteritem}.tsv"
    params:
        seed=seed_of_more_images,


use rule export_dataset as export_more_images with:
    input:
        shards=gather.images("results/{{study}}/more/{{arm}}/{{request}}/{scatteritem}/manifest.csv"),
        patches="results/{study}/patches/train.h5",
    output:
        images="results/{study}/more/{arm}/{request}/{arm}-{request}.h5",
        table="results/{study}/more/{arm}/{request}/{arm}-{request}.csv",
        metadata="results/{study}/more/{arm}/{request}/dataset/metadata.csv",
    log:
        "results/{study}/logs/export_more_images/{arm}/{request}.log",
    benchmark:
        "results/{study}/benchmarks/export_more_images/{arm}/{request}.tsv"


rule write_dataset_card:
    input:
        metadata="results/{study}/more/{arm}/{request}/dataset/metadata.csv",
        metrics=collect("results/{{study}}/metrics/{sampled}.json", sampled=["real", "{arm}"]),
    output:
        "results/{study}/more/{arm}/{request}/dataset/README.md",
    log:
        "results/{study}/logs/write_dataset_card/{arm}/{request}.log",
    benchmark:
        "results/{study}/benchmarks/write_dataset_card/{arm}/{request}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=10,
    params:
        folder=STUDY_FOLDER,
        source=config["data"]["source"],
        sizes={"patch": PATCH_SIZE, "generator": RESOLUTION},
        generator=base_model,
        settings=lambda wildcards: arm_settings(config, wildcards.arm),
        # No import leads to the cards' own texts.
        sources=model_digest(SCRIPTS / "histoprompt/hub_cards/templates"),
        code=code_digest("write_dataset_card"),
    script:
        "../scripts/write_dataset_card.py"
