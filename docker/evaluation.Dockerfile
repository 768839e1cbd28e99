# The evaluation: the kit on top of the shared libraries. It never sees images, networks or torch.
ARG BASE
FROM ${BASE} AS build
USER root
COPY kit /opt/kit
RUN python3 -m compileall -q /opt/kit && chmod -R a+rX,go-w /opt/kit

FROM ${BASE}
COPY --from=build /opt/kit /opt/kit
ENTRYPOINT ["python3", "-m", "landmark_evaluation.container"]
# Below here nothing adds a layer: both modes share every one.
ARG API_METHOD
LABEL org.grand-challenge.api-method=${API_METHOD}
# A crash in a compiled library still leaves a word on stderr.
ENV LANDMARKS_API_METHOD=${API_METHOD} PYTHONFAULTHANDLER=1
