# The static binary and nothing else: an image to copy leader-run from, or to start a static command in.
FROM rust:1.95-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY . .
RUN install -D "$(packaging/build)" /out/leader-run

FROM scratch
COPY --from=build /out/leader-run /usr/local/bin/leader-run
# Nobody in particular; a number, so that runAsNonRoot can be checked.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/leader-run"]
