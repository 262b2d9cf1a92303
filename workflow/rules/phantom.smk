rule make_phantom:
    output:
        patches="results/{study}/patches/{split}.h5",
        table="results/{study}/patches/{split}.csv",
    log:
        "results/{study}/logs/make_phantom/{split}.log",
    benchmark:
        "results/{study}/benchmarks/make_phantom/{split}.tsv"
    conda:
        "../../envs/histoprompt.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=60,
    params:
        patches=lookup(dpath="data/phantom/patches/{split}", within=config),
        slides=lookup(dpath="data/phantom/slides/{split}", within=config),
        seed=config["seed"],
        patch_size=config["data"]["patch_size"],
        classes=config["data"]["classes"],
        code=code_digest("make_phantom"),
    script:
        "../scripts/make_phantom.py"
