package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The endpoint types of DescribeCluster.
const (
	endpointBroker     = 1
	endpointController = 2
)

func describeCluster(ctx context.Context, d *Door, c *call, req *kmsg.DescribeClusterRequest) (*kmsg.DescribeClusterResponse, error) {
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.ClusterAuthorizedOperations = noOperations
	if c.version >= 1 && req.EndpointType != endpointBroker {
		kind := kerr.UnsupportedEndpointType
		if req.EndpointType == endpointController {
			kind = kerr.MismatchedEndpointType
		}
		e := kafkaError(kind, "endpoint type %d; this is a broker, type 1", req.EndpointType)
		resp.ErrorCode, resp.ErrorMessage = c.code(e), messageOf(e)
		return resp, nil
	}
	md, err := d.services.Cluster.Metadata(ctx, []string{""}, false, c.listener)
	if err != nil {
		return nil, err
	}
	brokers := kmsg.NewPtrMetadataResponse()
	d.metadataBrokers(brokers, md, c.listener)
	resp.ClusterID, resp.ControllerID = md.ClusterID, brokers.ControllerID
	for _, b := range brokers.Brokers {
		out := kmsg.NewDescribeClusterResponseBroker()
		out.NodeID, out.Host, out.Port, out.Rack = b.NodeID, b.Host, b.Port, b.Rack
		resp.Brokers = append(resp.Brokers, out)
	}
	if c.version >= 2 && req.IncludeFencedBrokers {
		for i := range md.Brokers {
			b := &md.Brokers[i]
			if host, port, ok := hostPort(d.services.Cluster.KafkaAddress(b.NodeID, c.listener)); ok && b.Fenced {
				out := kmsg.NewDescribeClusterResponseBroker()
				out.NodeID, out.Host, out.Port, out.Rack, out.IsFenced = b.NodeID, host, port, rackOf(b), true
				resp.Brokers = append(resp.Brokers, out)
			}
		}
	}
	return resp, nil
}
