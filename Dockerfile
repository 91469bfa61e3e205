# Build and train the digits with MultiStepLR:
#   docker build -t lr-schedule-lab .
#   docker run --rm -v "$PWD/runs:/app/runs" lr-schedule-lab
# Whatever follows the image's name goes to train.py in place of CMD:
#   docker run --rm --init --gpus all -v "$PWD/runs:/app/runs" -v "$PWD/data:/app/data" \
#       lr-schedule-lab scheduler=multistep data=fashion_mnist
# The mounted folders must exist and be writable for the image's user, uid 1000: make them first, and where your own uid
# is another one, add --user "$(id -u):$(id -g)" to docker run. TensorBoard is inside:
#   docker run --rm -p 6006:6006 -v "$PWD/runs:/app/runs" --entrypoint tensorboard lr-schedule-lab --logdir runs --bind_all
# `docker stop` ends a run where it can be continued with resume=runs/FOLDER. scripts/docker_check.sh tests this file.

# Any Debian with Python 3.11 or newer: python:3.x-slim, or plain debian:bookworm-slim, whose own Python is then installed.
ARG BASE=python:3.12-slim
FROM ${BASE}

# More Debian packages: dataset-fashion-mnist, or gcc and libc6-dev (on plain Debian python3-dev too) for compile=true.
ARG APT_PACKAGES=""
RUN set -eu; \
    packages="${APT_PACKAGES}"; \
    [ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"; \
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3 python3-venv"; \
    if [ -n "$packages" ]; then \
        apt-get update; \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages; \
        apt-get clean; \
        rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log; \
    fi

# All that is small and rarely changes comes before the dependencies: some builders copy the whole image at every step.
# The folders that runs write to, open to every user for docker run --user.
ARG UID=1000
RUN groupadd --gid "${UID}" app \
    && useradd --uid "${UID}" --gid app --home-dir /home/app --shell /usr/sbin/nologin app \
    && install -d -o app -g app -m 1777 /app/runs /app/data /home/app /home/app/matplotlib

ENV HOME=/home/app \
    USER=app \
    MPLCONFIGDIR=/home/app/matplotlib \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
VOLUME ["/app/runs", "/app/data"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "train.py"]
CMD ["scheduler=multistep", "data=digits"]

# Dependencies: installed anew only when pyproject.toml or the constraints change, not when the code does. torch comes from
# pip's default index with its CUDA libraries, most of the image's size. For another kind of torch give pip's arguments, for
# example --build-arg PIP_ARGS="--extra-index-url URL" with the CPU-only index of PyTorch's install page, which must have
# torch and torchvision in the versions of scripts/constraints.txt, as 2.15.0+cpu for 2.15.0. --build-arg CONSTRAINTS=
# takes the newest versions in the ranges of pyproject.toml instead. A pip.conf for a mirror:
# docker build --secret id=pip_conf,src=/etc/pip.conf; it does not end up in the image.
# Deleted: static libraries, which only a compiler of CUDA programs would need. The last line builds matplotlib's cache.
ARG PIP_ARGS=""
ARG CONSTRAINTS=scripts/constraints.txt
COPY pyproject.toml ./
COPY scripts/constraints.txt scripts/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf set -eu; \
    python3 -m venv /opt/venv; \
    python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > /tmp/requirements.txt; \
    pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} ${CONSTRAINTS:+--constraint "${CONSTRAINTS}"} \
        -r /tmp/requirements.txt; \
    rm /tmp/requirements.txt; \
    find /opt/venv -name '*.a' -delete; \
    python -c 'import matplotlib.font_manager'

# What is copied is listed in .dockerignore; it belongs to root, so that the user of the image cannot change it.
USER ${UID}:${UID}
COPY . ./
