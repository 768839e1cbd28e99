# One algorithm: the kit and a baseline's folder on top of the shared libraries. Built by lib.sh, once per API mode.
ARG BASE
FROM ${BASE} AS build
USER root
# The kit is the same for every algorithm: built once, and a layer that all images share.
COPY kit /opt/kit
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/kit && chmod -R a+rX,go-w /opt/kit
COPY algorithm /opt/algorithm
COPY wheels /wheels
# A method that another image puts in the place of this one must run, so its bytecode is checked against the source.
# /opt/own: what the algorithm's requirements.txt adds to the shared libraries, mostly nothing.
RUN mkdir -p /opt/own && { ! ls /wheels/*.whl >/dev/null 2>&1 || \
        python3 -m pip install --no-index --no-deps --no-cache-dir --target /opt/own /wheels/*.whl; } \
    && python3 -m compileall -q --invalidation-mode checked-hash /opt/algorithm \
    && chmod -R a+rX,go-w /opt/algorithm /opt/own

FROM ${BASE}
COPY --from=build /opt/kit /opt/kit
COPY --from=build /opt/algorithm /opt/algorithm
COPY --from=build /opt/own /opt/own
# A participant's method.py lies beside algorithm.yaml; last, so that it never shadows a library.
ENV PYTHONPATH=${PYTHONPATH}:/opt/own:/opt/algorithm
ENTRYPOINT ["python3", "-m", "landmark_baselines.algorithm"]
# Below here nothing adds a layer: both modes share every one.
ARG API_METHOD
LABEL org.grand-challenge.api-method=${API_METHOD}
# A crash in a compiled library still leaves a word on stderr. OpenMP threads that wait sleep: where others use the cores
# too, spinning threads made an inference a hundred times slower (8.6 s in place of 0.08 s, two threads, load 5).
ENV LANDMARKS_API_METHOD=${API_METHOD} PYTHONFAULTHANDLER=1 OMP_WAIT_POLICY=PASSIVE
