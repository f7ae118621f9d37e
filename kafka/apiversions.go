package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func apiVersions(_ context.Context, d *Door, _ *call, _ *kmsg.ApiVersionsRequest) (*kmsg.ApiVersionsResponse, error) {
	resp := listVersions(d.listed)
	return resp, nil
}

// unsupportedVersion answers an ApiVersions of a version that is not known here: in
// version 0, which every client reads, with what is (KIP-511).
func unsupportedVersion(listed []entry) *kmsg.ApiVersionsResponse {
	resp := listVersions(listed)
	resp.ErrorCode = kerr.UnsupportedVersion.Code
	return resp
}

func listVersions(listed []entry) *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	for i := range listed {
		e := &listed[i]
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = e.key, e.listedMin, e.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}
