# The third-party libraries of the images, installed offline from wheels that lib.sh fetched beside this file.
# LIBRARIES: light, torch (on top of light) or evaluation (on top of light).
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG LIBRARIES
USER root
COPY requirements/${LIBRARIES}.txt wheels/${LIBRARIES} /wheels/
RUN python3 -m pip install --no-index --find-links /wheels --no-deps --require-hashes --no-cache-dir \
        --target /opt/libraries/${LIBRARIES} --requirement /wheels/${LIBRARIES}.txt \
    && cd /opt/libraries/${LIBRARIES} \
    # Headers, tests and build tools of the libraries never run here.
    && rm -rf bin torch/include torch/bin/protoc* torch/test torch/share \
    && find . -depth -type d \( -name tests -o -name test \) -path '*/*/*' \
        ! -path './numpy/*' ! -path './torch/*' -exec rm -rf {} + \
    && chmod -R a+rX,go-w .

FROM ${BASE}
ARG LIBRARIES
USER root
COPY --from=build /opt/libraries/${LIBRARIES} /opt/libraries/${LIBRARIES}
RUN mkdir -p /input /output /opt/ml/model /opt/ml/input/data/ground_truth \
    && (getent passwd landmarks >/dev/null || useradd --system --uid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin landmarks) \
    && chown landmarks /output
# The first folder of PYTHONPATH holds the program itself; the images add it.
ENV PYTHONPATH=/opt/kit:/opt/libraries/torch:/opt/libraries/evaluation:/opt/libraries/light \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /opt
USER landmarks
RUN python3 -c "import numpy, pydantic, SimpleITK, yaml" && \
    if [ "${LIBRARIES}" = torch ]; then python3 -c "import torch"; fi
