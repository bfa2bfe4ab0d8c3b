// Package bastion is the domain: what a bastion is, what its record says, and
// the function that brings the cloud to what the record says.
//
// A request never changes the cloud directly. It writes intent (open or closed,
// the source, the keys, the deadline) into a [Record] and then calls
// [Service.Converge]. Converge reads the cloud, asks the pure function [Decide]
// what to do, writes that into the record, does it, and starts over until there
// is nothing left that its caller may do. Create, extend, close, the reaper and
// the observer all call that one loop. A crash at any point leaves a record that
// is due; the reaper completes the change or undoes it.
//
// The package imports the standard library only. It reaches the cloud through the
// interfaces in ports.go. Their comments are the contract, and every adapter
// passes the same conformance suite.
package bastion
