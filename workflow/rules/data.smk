# The source of patches is chosen here, once: both files make the same patches/{split}.h5 and .csv.
include: "phantom.smk" if config["data"]["source"] == "phantom" else "import.smk"


rule download_pcam:
    output:
        # The six files themselves are not declared: Snakemake would delete a half-finished download instead of going on with it.
        local(f"{DOWNLOADED_PCAM}/manifest.json"),
    log:
        "results/logs/download_pcam.log",
    benchmark:
        "results/benchmarks/download_pcam.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=720,
    params:
        folder=subpath(output[0], parent=True),
    script:
        "../scripts/download_pcam.py"


localrules:
    download_pcam,


rule filter_outliers:
    input:
        patches="results/{study}/patches/{split}.h5",
        table="results/{study}/patches/{split}.csv",
    output:
        kept="results/{study}/patches/{split}.kept.csv",
        dropped="results/{study}/patches/{split}.dropped.csv",
    log:
        "results/{study}/logs/filter_outliers/{split}.log",
    benchmark:
        "results/{study}/benchmarks/filter_outliers/{split}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=240,
    params:
        thresholds=config["outliers"],
        code=code_digest("filter_outliers"),
    script:
        "../scripts/filter_outliers.py"
