# Two ways to the same image: `make image` copies the static binary that
# `make build` made (target prebuilt, needs no registry); `docker build .`
# compiles it in a Go image.
FROM scratch AS prebuilt
COPY bin/penstock /penstock
EXPOSE 7070 7071 7072 7073 9092
VOLUME /data
ENTRYPOINT ["/penstock"]
CMD ["server"]

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG GIT_REV=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION} -X main.gitRev=${GIT_REV}" -o /penstock ./cmd/penstock

FROM scratch
COPY --from=build /penstock /penstock
EXPOSE 7070 7071 7072 7073 9092
VOLUME /data
ENTRYPOINT ["/penstock"]
CMD ["server"]
