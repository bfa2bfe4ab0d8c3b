package httpapi

import (
	"net/http"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func (a *handler) create(x *exchange) (answer, error) {
	body, err := readBody(x.body)
	if err != nil {
		return answer{}, err
	}
	req, err := createRequest(body)
	if err != nil {
		return answer{}, err
	}
	req.Caller, req.Wait = x.caller, x.wait
	rec, created, err := a.Service.Create(x.Context(), req)
	if err != nil {
		return answer{}, err
	}
	if created {
		return answer{status: http.StatusCreated, records: []bastion.Record{rec}, location: collection + "/" + rec.ID}, nil
	}
	return one(rec, http.StatusOK)
}

func (a *handler) get(x *exchange) (answer, error) {
	id, err := x.bastionID()
	if err != nil {
		return answer{}, err
	}
	rec, err := a.Service.Get(x.Context(), x.caller, id, x.wait)
	if err != nil {
		return answer{}, err
	}
	return one(rec, http.StatusOK)
}

func (a *handler) list(x *exchange) (answer, error) {
	records, err := a.Service.List(x.Context(), x.caller, x.wait)
	return answer{status: http.StatusOK, records: records, list: true}, err
}

func (a *handler) extend(x *exchange) (answer, error) {
	id, err := x.bastionID()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody(x.body)
	if err != nil {
		return answer{}, err
	}
	ttl, err := extendTTL(body)
	if err != nil {
		return answer{}, err
	}
	rec, err := a.Service.Extend(x.Context(), x.caller, id, ttl, x.wait)
	if err != nil {
		return answer{}, err
	}
	return one(rec, http.StatusOK)
}

func (a *handler) close(x *exchange) (answer, error) {
	id, err := x.bastionID()
	if err != nil {
		return answer{}, err
	}
	rec, err := a.Service.Close(x.Context(), x.caller, id, x.wait)
	if err != nil {
		return answer{}, err
	}
	return one(rec, closeStatus(rec))
}

func (a *handler) closeAll(x *exchange) (answer, error) {
	records, err := a.Service.CloseAll(x.Context(), x.caller, x.wait)
	return answer{status: closeStatus(records...), records: records, list: true}, err
}

// closeStatus is 202 while something is left of what was closed.
func closeStatus(records ...bastion.Record) int {
	for _, rec := range records {
		if rec.FinishedAt.IsZero() {
			return http.StatusAccepted
		}
	}
	return http.StatusOK
}

func one(rec bastion.Record, status int) (answer, error) {
	return answer{status: status, records: []bastion.Record{rec}}, nil
}
