package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func apiVersions(_ context.Context, d *Door, _ *call, _ *kmsg.ApiVersionsRequest) (*kmsg.ApiVersionsResponse, error) {
	return listVersions(d.listed), nil
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
