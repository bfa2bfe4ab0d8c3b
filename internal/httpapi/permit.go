package httpapi

import (
	"context"
	"errors"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// CodeDraining: the stack is being taken away and makes nothing new.
const CodeDraining bastion.Code = "draining"

// errNotHere is a fault of the routes, or the attempt of somebody who invokes a
// function with an event that is not its own. The function's role would not let
// it get far either.
var errNotHere = errors.New("this function does not serve this operation")

// Nothing is a [Service] that does nothing: a function embeds it and overrides
// what it serves.
type Nothing struct{}

// Create refuses.
func (Nothing) Create(context.Context, bastion.CreateRequest) (bastion.Record, bool, error) {
	return bastion.Record{}, false, errNotHere
}

// Get refuses.
func (Nothing) Get(context.Context, bastion.Caller, string, time.Duration) (bastion.Record, error) {
	return bastion.Record{}, errNotHere
}

// List refuses.
func (Nothing) List(context.Context, bastion.Caller, time.Duration) ([]bastion.Record, error) {
	return nil, errNotHere
}

// Extend refuses.
func (Nothing) Extend(context.Context, bastion.Caller, string, time.Duration, time.Duration) (bastion.Record, error) {
	return bastion.Record{}, errNotHere
}

// Close refuses.
func (Nothing) Close(context.Context, bastion.Caller, string, time.Duration) (bastion.Record, error) {
	return bastion.Record{}, errNotHere
}

// CloseAll refuses.
func (Nothing) CloseAll(context.Context, bastion.Caller, time.Duration) ([]bastion.Record, error) {
	return nil, errNotHere
}

// OnlyCreate serves POST /bastions and nothing else; while draining it makes
// nothing new.
func OnlyCreate(s Service, draining bool) Service {
	if draining {
		return refuseCreate{}
	}
	return onlyCreate{Service: s}
}

type onlyCreate struct {
	Nothing
	Service Service
}

func (o onlyCreate) Create(ctx context.Context, req bastion.CreateRequest) (bastion.Record, bool, error) {
	return o.Service.Create(ctx, req)
}

type refuseCreate struct{ Nothing }

func (refuseCreate) Create(context.Context, bastion.CreateRequest) (bastion.Record, bool, error) {
	return bastion.Record{}, false, bastion.Errorf(CodeDraining, "This service is being taken away and starts no bastions any more. Ask its operator for another.")
}

// OnlyDescribe serves GET and nothing else.
func OnlyDescribe(s Service) Service { return onlyDescribe{Service: s} }

type onlyDescribe struct {
	Nothing
	Service Service
}

func (o onlyDescribe) Get(ctx context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error) {
	return o.Service.Get(ctx, caller, id, wait)
}

func (o onlyDescribe) List(ctx context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error) {
	return o.Service.List(ctx, caller, wait)
}

// OnlyExtend serves PATCH and nothing else.
func OnlyExtend(s Service) Service { return onlyExtend{Service: s} }

type onlyExtend struct {
	Nothing
	Service Service
}

func (o onlyExtend) Extend(ctx context.Context, caller bastion.Caller, id string, ttl, wait time.Duration) (bastion.Record, error) {
	return o.Service.Extend(ctx, caller, id, ttl, wait)
}

// OnlyDestroy serves DELETE and nothing else.
func OnlyDestroy(s Service) Service { return onlyDestroy{Service: s} }

type onlyDestroy struct {
	Nothing
	Service Service
}

func (o onlyDestroy) Close(ctx context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error) {
	return o.Service.Close(ctx, caller, id, wait)
}

func (o onlyDestroy) CloseAll(ctx context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error) {
	return o.Service.CloseAll(ctx, caller, wait)
}
