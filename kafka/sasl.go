package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// saslHandshake answers that no mechanism is enabled.
func saslHandshake(_ context.Context, _ *Door, c *call, _ *kmsg.SASLHandshakeRequest) (*kmsg.SASLHandshakeResponse, error) {
	resp := kmsg.NewPtrSASLHandshakeResponse()
	resp.ErrorCode = c.fail(kerr.UnsupportedSaslMechanism)
	return resp, nil
}

// saslAuthenticate is out of place: no handshake succeeds.
func saslAuthenticate(_ context.Context, _ *Door, c *call, _ *kmsg.SASLAuthenticateRequest) (*kmsg.SASLAuthenticateResponse, error) {
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.ErrorCode = c.fail(kerr.IllegalSaslState)
	resp.ErrorMessage = new("no SASL mechanism is enabled on this listener")
	return resp, nil
}
