package bastion

import (
	"net/netip"
)

// Step is a kind of action. Each step is one bit, so that a Step can also hold the
// set of steps that a function may take.
type Step uint

// The steps.
const (
	CreateGroup Step = 1 << iota
	RevokeEgress
	AuthorizeIngress
	RevokeIngress
	RunTask
	WriteLease
	StopTask
	EndLease
	DeleteGroup
	Notify
)

// The steps that each function may take. If another step is needed, the record
// becomes due at once, and the reaper or the observer takes the step. The IAM roles
// of the functions follow from this table.
const (
	CreateSteps   = CreateGroup | RevokeEgress | AuthorizeIngress | RevokeIngress | RunTask | WriteLease | EndLease
	ExtendSteps   = WriteLease
	DestroySteps  = RevokeIngress | WriteLease | StopTask | EndLease
	DescribeSteps = Step(0)
	ReaperSteps   = CreateSteps | DestroySteps | DeleteGroup | Notify
	ObserverSteps = ReaperSteps
)

// groupSteps are the steps that change the group.
const groupSteps = CreateGroup | RevokeEgress | AuthorizeIngress | RevokeIngress | DeleteGroup

// Action is one step with its parameters. Two equal actions have the same effect.
type Action struct {
	Step Step
	// Try is the record's Failures, in all steps of the group but DeleteGroup. When a
	// refusal has been counted, the next try of the step is therefore another action.
	Try        int
	GroupID    string       // of RevokeEgress, RevokeIngress, AuthorizeIngress and DeleteGroup
	Rule       Rule         // of RevokeEgress and RevokeIngress
	Source     netip.Prefix // of AuthorizeIngress
	Attempt    int          // of RunTask
	TaskID     string       // of WriteLease, StopTask and EndLease
	Generation int64        // of WriteLease
	Notice     Notice       // of Notify
}
